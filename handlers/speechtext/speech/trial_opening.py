"""Recordings opened on trial, in a process that can be ended.

FFmpeg reads the tags, chapters and index of a recording in one call, whose time may grow with the
square of their number: 40,000 tags, half a megabyte, take it 24 s. Nothing interrupts that call,
and nothing but FFmpeg tells which bytes make it long.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from typing import IO, cast

from speechtext.allowance import check_time, find_deadline_s
from speechtext.errors import RequestError, RequestTooLargeError, UnavailableError
from speechtext.speech.opening import OPENED, SIZE_BYTES, unsupported

# Processor time, so that a busy machine does not matter. Ordinary tags take milliseconds.
MOST_OPENING_S = 5
# Where a batch has no end, and as systems wait no longer than some days.
LONGEST_WAIT_S = 3_600.0
# How a process ends by a fault of its own.
CRASHES = {-signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV}


class TrialOpener:
    """A process that opens recordings before this one does; it begins with the first of them."""

    def __init__(self, most_s: int = MOST_OPENING_S) -> None:
        self._most_s = most_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_id(self) -> int | None:
        """Return which process opens recordings, None where none does."""
        return self._process.pid if self._process else None

    def try_opening(self, audio: bytes) -> None:
        """Return once FFmpeg has opened a recording, or has found that it cannot.

        Raises `RequestError`: 413 where that takes more than `most_s` of a processor's time, 415
        where FFmpeg crashes, 503 where something else ends the process; and `DeadlineError` where
        the batch has less time left. Does nothing on Windows, which limits no process's time.
        """
        if not hasattr(signal, "SIGXCPU"):
            return
        with self._lock:
            opened = False
            process = self._find_process()
            try:
                opened = _is_opened(process, audio)
            finally:
                if not opened:
                    self.end()
        if not opened:
            check_time()
            raise _explain_end(process.returncode, len(audio), self._most_s)

    def _find_process(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = _start(self._most_s)
            atexit.register(self.end)
        return self._process

    def end(self) -> None:
        """End the process, if there is one; the next recording begins another."""
        atexit.unregister(self.end)
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()


opener = TrialOpener()


def _start(most_s: int) -> "subprocess.Popen[bytes]":
    # What this process finds, inside of an archive, too, that one has to find.
    environment = {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "speechtext.speech.opening", str(most_s)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    )


def _is_opened(process: "subprocess.Popen[bytes]", audio: bytes) -> bool:
    """Send a recording; tell whether it was opened before the process, or the time, ended."""
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    with contextlib.suppress(BrokenPipeError):
        for part in (len(audio).to_bytes(SIZE_BYTES, "big"), audio):
            left = memoryview(part)
            while left:
                left = left[stdin.write(left) :]
    left_s = find_deadline_s() - time.monotonic()
    in_time = wait([stdout.fileno()], min(left_s, LONGEST_WAIT_S))
    return bool(in_time) and stdout.read(1) == OPENED


def _explain_end(code: int | None, size: int, most_s: int) -> RequestError:
    """Return the error of a recording amid which the process ended: only crashes are its fault."""
    if code == -signal.SIGXCPU:
        return RequestTooLargeError(
            "TooMuchWork",
            f"Expected a recording in body whose header, tags and index are read within {most_s} "
            f"s, got {size} bytes that take longer.",
        )
    if code in CRASHES:
        return unsupported(size)
    return UnavailableError(
        "OpeningEnded",
        "Expected a process that opens recordings; something ended it. Try again.",
        retry_after_s=1,
    )
