"""How much work a request is, before it is begun: seconds of audio, or tokens."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from tokenizers import Tokenizer

from cluster.archives import Archive
from cluster.requests import WorkerRequest, read_parameters
from cluster.served_model import Measure

TOKENIZER_FILE = "tokenizer.json"
# What is measured: FFmpeg knows containers that open addresses and other files.
PROBED = {
    "format_whitelist": "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,mov,matroska,amr",
    "probesize": "1000000",
    # Samples of PCM are not searched for what might be another codec: that takes milliseconds.
    "max_probe_packets": "0",
}


def choose_measure(archive: Archive) -> Measure:
    """Return what the requests of an archive are measured by: tokens where it has a tokenizer."""
    file = archive.folder / TOKENIZER_FILE
    return measure_tokens(file) if file.is_file() else measure_audio


def measure_audio(request: WorkerRequest) -> float:
    """Return the seconds of a recording, as its container says; 0 for what is none."""
    return max(map(_duration_s, _binaries(request)), default=0.0)


def measure_tokens(file: Path) -> Measure:
    """Return a function that counts the tokens of a request's texts."""
    tokenizer = Tokenizer.from_file(str(file))

    def measure(request: WorkerRequest) -> float:
        return sum(len(tokenizer.encode(text).ids) for text in _texts(request))

    return measure


def _values(request: WorkerRequest) -> list[Any]:
    return [each["value"] for each in read_parameters(request.content_type, request.body)]


def _binaries(request: WorkerRequest) -> Iterator[bytearray]:
    return (value for value in _values(request) if isinstance(value, bytearray))


def _duration_s(recording: bytearray) -> float:
    try:
        with av.open(BytesIO(recording), "r", options=PROBED) as container:
            return (container.duration or 0) / av.time_base
    except (FFmpegError, ValueError, EOFError):
        return 0.0


def _texts(request: WorkerRequest) -> Iterator[str]:
    for value in _values(request):
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytearray):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
