"""Stream a recording, or the microphone, to a live session, and show what it understands."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clients.live_session import LiveError, LiveSession
from clients.recordings import read_file, read_microphone

URL = "http://127.0.0.1:8080/predictions/emformer_asr_live"
# Moves to the line's beginning and clears it.
REWIND = "\r\x1b[K"


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
        with LiveSession(options.url, rate_hz, channels) as session:
            stream(session, pieces)
    except LiveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
