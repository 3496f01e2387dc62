"""Speech in pieces, as it is spoken: out of a file, or from the microphone."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile

from clients.live_session import PIECE_S, LiveError

MICROPHONE_RATE_HZ = 16_000
PCM_BYTES = 2


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
