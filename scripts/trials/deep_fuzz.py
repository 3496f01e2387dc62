"""Search for bytes that break what reads requests, led by the coverage of the code, for an hour.

Each reader gets an equal share of the time, in a process of its own, by libFuzzer
(https://llvm.org/docs/LibFuzzer.html, through atheris). It may return or raise `RequestError`; all
else is a fault, as are ten seconds for one input, 2 GB, and samples that are no numbers. What was
found stays in `.build/fuzz`, where the next search begins.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from repository import ROOT
from tables import print_table

CORPUS = ROOT / ".build" / "fuzz"
SEEDS = ROOT / "examples"
MINUTES = 60
INPUT_TIMEOUT_S, MEMORY_MB, MOST_BYTES = 10, 2048, 65_536
RATE_HZ, MOST_AUDIO_S = 16_000, 60.0
# Matches libFuzzer's last line.
PROGRESS = re.compile(r"#(\d+)\s.*?cov: (\d+).*?corp: (\d+)/")


def read_recording(given: Any) -> None:
    """Decode a recording of any container."""
    from speechtext.speech.audio import decode_audio

    _check(decode_audio(_rest(given), RATE_HZ, MOST_AUDIO_S))


def read_samples(given: Any) -> None:
    """Decode bare samples, of whatever format a header names."""
    from speechtext.speech.audio import decode_audio
    from speechtext.speech.pcm import parse_pcm_format

    pcm = parse_pcm_format(given.ConsumeUnicodeNoSurrogates(80))
    _check(decode_audio(_rest(given), RATE_HZ, MOST_AUDIO_S, pcm))


def read_live(given: Any) -> None:
    """Take a recording in pieces, cut anywhere: they say as much as the whole does."""
    cuts = [given.ConsumeIntInRange(0, 5000) for _ in range(4)]
    whole = _rest(given)
    pieces = [whole[: cuts[0]]]
    for cut in cuts[1:]:
        start = sum(map(len, pieces))
        pieces.append(whole[start : start + cut])
    pieces.append(whole[sum(map(len, pieces)) :])
    in_pieces, at_once = _hear(pieces), _hear([whole])
    # A second header is recognised where it is whole.
    if None not in (in_pieces, at_once) and in_pieces != at_once:
        raise AssertionError(f"{in_pieces} samples in pieces, {at_once} at once")


def _hear(pieces: Sequence[bytes]) -> int | None:
    """Return how many samples live audio has, None where it is refused."""
    from speechtext.errors import RequestError
    from speechtext.speech.live_audio import LiveAudio

    live = LiveAudio(RATE_HZ, MOST_AUDIO_S, None)
    try:
        found = [live.push(piece) for piece in pieces]
        found.append(live.end())
    except RequestError:
        return None
    for samples in found:
        _check(samples)
    return sum(map(len, found))


def read_payload(given: Any) -> None:
    """Read a text, or the fields of an object, and parameters among them."""
    from speechtext.parameters import read_parameters
    from speechtext.payloads import as_fields
    from speechtext.text.payloads import read_content, target_of, text_of
    from speechtext.text.sampling import GenerationParameters

    declared, by_hub = given.ConsumeBool(), given.ConsumeBool()
    content = read_content(as_fields(_rest(given), declared), by_hub)
    text_of(content)
    target_of(content)
    read_parameters(GenerationParameters, content.parameters, {})


def read_form(given: Any) -> None:
    """Read a body by whatever its header says that it is."""
    from cluster.requests import read_parameters

    list(read_parameters(given.ConsumeUnicodeNoSurrogates(120), _rest(given)))


READERS: dict[str, Callable[[Any], None]] = {
    "recording": read_recording,
    "samples": read_samples,
    "live": read_live,
    "payload": read_payload,
    "form": read_form,
}


def _rest(given: Any) -> bytes:
    return bytes(given.ConsumeBytes(given.remaining_bytes()))


def _check(samples: Any) -> None:
    if not samples.isfinite().all() or len(samples) > RATE_HZ * (MOST_AUDIO_S + 1):
        raise AssertionError(f"{len(samples)} samples, or none that are numbers")


def search_here(reader: str, arguments: Sequence[str]) -> None:
    """Search in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["speechtext", "cluster.requests", "werkzeug"]):
        import cluster.requests  # noqa: F401
        import speechtext.parameters
        import speechtext.payloads
        import speechtext.speech.audio
        import speechtext.speech.live_audio
        import speechtext.text.payloads
        import speechtext.text.sampling  # noqa: F401
        from speechtext.errors import RequestError

    def read(data: bytes) -> None:
        with suppress(RequestError):
            READERS[reader](atheris.FuzzedDataProvider(data))

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()


def search(reader: str, seconds: float) -> tuple[str, int, str, bool]:
    """Search for a while; return the inputs tried, the coverage, and whether one broke it."""
    folder = CORPUS / reader
    folder.mkdir(parents=True, exist_ok=True)
    limits = {
        "max_total_time": int(seconds),
        "timeout": INPUT_TIMEOUT_S,
        "rss_limit_mb": MEMORY_MB,
        "max_len": MOST_BYTES,
        "artifact_prefix": f"{folder}/",
        "verbosity": 1,
    }
    command = [
        *(sys.executable, "-m", "trials.deep_fuzz", "--here", reader, "--"),
        *(f"-{name}={value}" for name, value in limits.items()),
        *map(str, (folder, SEEDS)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    progress = PROGRESS.findall(done.stderr)
    tried, covered, _ = progress[-1] if progress else ("0", "0", "0")
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-30:]), file=sys.stderr)
    return reader, int(tried), covered, done.returncode != 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Search with each reader; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default {MINUTES}")
    parser.add_argument("--here", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        search_here(options.here, options.readers)
    unknown = sorted(set(options.readers) - set(READERS))
    if unknown:
        parser.error(f"expected readers among {', '.join(READERS)}; got {', '.join(unknown)}")
    chosen = options.readers or list(READERS)
    found = []
    for reader in chosen:
        print(f"{reader}: {60 * options.minutes / len(chosen):.0f} s ...", flush=True)
        found.append(search(reader, 60 * options.minutes / len(chosen)))
    rows = [
        (name, f"{tried:,}", covered, "broken" if bad else "")
        for name, tried, covered, bad in found
    ]
    print_table(("reader", "inputs", "branches reached", ""), rows)
    return 1 if any(bad for *_, bad in found) else 0


if __name__ == "__main__":
    sys.exit(main())
