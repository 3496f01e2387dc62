"""How much work a request is, before it is begun: seconds of audio, or tokens."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cluster.archives import Archive, ArchiveError
from cluster.requests import WorkerRequest, read_parameters
from cluster.served_model import Measure

TOKENIZER_FILE = "tokenizer.json"


def choose_measure(archive: Archive) -> Measure:
    """Return what the requests of an archive are measured by: tokens where it has a tokenizer.

    Raises `ArchiveError` for a tokenizer that cannot be read.
    """
    file = archive.folder / TOKENIZER_FILE
    try:
        return measure_tokens(file) if file.is_file() else measure_audio
    # tokenizers raises plain exceptions.
    except Exception as error:
        said = f"expected a tokenizer, got: {error}."
        raise ArchiveError(f"{archive.name}: {TOKENIZER_FILE}: {said}") from error


def measure_audio(request: WorkerRequest) -> float:
    """Return the seconds of a recording, as its container says; 0 for what is none.

    The library of the archive opens it, as it does to answer; where that is older than its
    `find_duration_s`, or there is none, it is 0.
    """
    try:
        # From the archive, whose modules can be imported once its handler is loaded.
        from speechtext.speech.containers import find_duration_s
    except ImportError:
        return 0.0
    # No process that opens recordings may have begun, for want of memory.
    with suppress(OSError):
        return max((find_duration_s(bytes(each)) for each in _binaries(request)), default=0.0)
    return 0.0


def measure_tokens(file: Path) -> Measure:
    """Return a function that counts the tokens of a request's texts."""
    tokenizer = Tokenizer.from_file(str(file))

    def measure(request: WorkerRequest) -> float:
        return sum(len(tokenizer.encode(_whole(text)).ids) for text in _texts(request))

    return measure


def _values(request: WorkerRequest) -> list[Any]:
    return [each["value"] for each in read_parameters(request.content_type, request.body)]


def _binaries(request: WorkerRequest) -> Iterator[bytearray]:
    return (value for value in _values(request) if isinstance(value, bytearray))


def _texts(request: WorkerRequest) -> Iterator[str]:
    for value in _values(request):
        yield from _strings(value)


def _whole(text: str) -> str:
    """Return a text with a mark for each half of a surrogate pair, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytearray):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
