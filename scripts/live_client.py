"""Stream a recording, or the microphone, to a live session, and show what it understands."""

import argparse
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import soundfile

URL = "http://127.0.0.1:8080/predictions/emformer_asr_live"
PIECE_S = 0.16
MICROPHONE_RATE_HZ = 16_000
PCM_BYTES = 2
TIMEOUT_S = 30.0
# Moves to the line's beginning and clears it.
REWIND = "\r\x1b[K"


class LiveError(Exception):
    """Why a session could not go on, in one sentence."""


class LiveSession:
    """A session of the live archive: send pieces of 16-bit samples, get what they say."""

    def __init__(self, url: str, rate_hz: int, channels: int = 1) -> None:
        self._url = url
        # Names of headers in lower case, which TorchServe insists on.
        self._headers = {
            "content-type": f"audio/L16; rate={rate_hz}; channels={channels}; "
            "endianness=little-endian",
            "ts_request_sequence_id": str(uuid.uuid4()),
            "ts_request_sequence_start": "true",
        }
        self._client = httpx2.Client(timeout=TIMEOUT_S)

    def send(self, piece: bytes, last: bool = False) -> dict[str, Any]:
        """Return the answer to a piece; raises `LiveError` where there is none."""
        if last:
            self._headers["ts_request_sequence_end"] = "true"
        try:
            response = self._client.post(self._url, content=piece, headers=self._headers)
            answer: dict[str, Any] = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise LiveError(f"{self._url} does not answer as expected: {error}.") from error
        if response.status_code != httpx2.codes.OK:
            raise LiveError(f"{self._url} answered {response.status_code}: {answer['message']}")
        if "partial" not in answer:
            raise LiveError(f"{self._url} is no archive of live sessions.")
        self._headers.pop("ts_request_sequence_start", None)
        return answer


def read_file(path: Path, speed: float) -> tuple[int, int, Iterator[bytes]]:
    """Return a recording's rate, channels and pieces, each when it would have been spoken."""
    try:
        recording = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise LiveError(f"{path} cannot be read as a recording: {error}") from error

    def pieces() -> Iterator[bytes]:
        started_s, sent_s = time.monotonic(), 0.0
        with recording:
            while len(block := recording.read(int(PIECE_S * recording.samplerate), dtype="int16")):
                sent_s += len(block) / recording.samplerate
                time.sleep(max(0.0, started_s + sent_s / speed - time.monotonic()))
                yield block.astype("<i2").tobytes()

    return recording.samplerate, recording.channels, pieces()


def read_microphone() -> tuple[int, int, Iterator[bytes]]:
    """Return what `arecord` hears until it is interrupted; raises `LiveError` without it."""
    program = shutil.which("arecord")
    if program is None:
        raise LiveError(
            "The microphone needs arecord (Debian's package alsa-utils); or give a FILE."
        )

    def pieces() -> Iterator[bytes]:
        command = [program, "-q", "-t", "raw", "-f", "S16_LE", "-r", str(MICROPHONE_RATE_HZ)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout  # noqa: S101
            try:
                while piece := process.stdout.read(int(PIECE_S * MICROPHONE_RATE_HZ) * PCM_BYTES):
                    yield piece
            except KeyboardInterrupt:
                process.terminate()

    return MICROPHONE_RATE_HZ, 1, pieces()


def stream(session: LiveSession, pieces: Iterator[bytes]) -> str:
    """Send the pieces, show partial and final text as it comes, and return all of it."""
    for piece in pieces:
        show(session.send(piece))
    answer = session.send(b"", last=True)
    show(answer)
    return str(answer["text"])


def show(answer: dict[str, Any]) -> None:
    """Print final text on lines of its own, and partial text on the last one."""
    rewind = REWIND if sys.stdout.isatty() else ""
    if answer["final"]:
        print(f"{rewind}{answer['start']:8.2f} s  {answer['final']}", flush=True)
    if rewind and answer["partial"]:
        print(f"{rewind}            {answer['partial']} ...", end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Stream what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: microphone")
    parser.add_argument("--url", default=URL, help=f"default: {URL}")
    parser.add_argument("--speed", type=float, default=1.0, help="1 is the pace of speech")
    options = parser.parse_args(arguments)
    try:
        source = read_file(options.file, options.speed) if options.file else read_microphone()
        rate_hz, channels, pieces = source
        stream(LiveSession(options.url, rate_hz, channels), pieces)
    except LiveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
