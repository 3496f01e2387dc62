"""How far a job is: for those who watch, and as a summary at its end."""

import sys
import time
from datetime import timedelta
from typing import Any, TextIO

from bulk.steps import Tally

TELL_EVERY_S = 1.0
# The interval where the output is not a terminal.
LOG_EVERY_S = 30.0


class Progress:
    """What is done of a job, told now and then; `done` inputs were answered before it began."""

    def __init__(self, total: int, done: int, stream: TextIO = sys.stderr) -> None:
        self.tally = Tally()
        self._total = total
        self._done = done
        self._stream = stream
        self._begun_s = self._told_s = time.monotonic()
        self._worked_from_s: float | None = None

    @property
    def working_s(self) -> float:
        """Return for how long inputs are answered: without the time in which workers are loaded."""
        return time.monotonic() - (self._worked_from_s or self._begun_s)

    def hear(self, tally: Tally) -> None:
        """Take what a task did."""
        self.tally.add(tally)
        now_s = time.monotonic()
        if self._worked_from_s is None:
            # The first workers are loaded when they begin.
            self._worked_from_s = now_s - tally.seconds
        if now_s - self._told_s >= (TELL_EVERY_S if self._stream.isatty() else LOG_EVERY_S):
            self._told_s = now_s
            self._tell(self._line())

    def _tell(self, line: str) -> None:
        start, end = ("\r\033[K", "") if self._stream.isatty() else ("", "\n")
        print(f"{start}{line}", end=end, file=self._stream, flush=True)

    def _line(self) -> str:
        took_s = max(self.working_s, 0.001)
        rate = self.tally.rows / took_s
        left = self._total - self._done - self.tally.rows
        parts = [f"{self._done + self.tally.rows:,} of {self._total:,}", f"{rate:,.1f} a second"]
        if self.tally.audio_s:
            parts.append(f"{self.tally.audio_s / took_s:,.0f} times real time")
        if rate:
            parts.append(f"{write_time(left / rate)} left")
        return ", ".join([*parts, f"{self.tally.errors.total():,} errors"])

    def finish(self) -> dict[str, Any]:
        """Tell how it ended, and return the summary."""
        self._tell(self._line())
        if self._stream.isatty():
            print(file=self._stream)
        took_s, tally = self.working_s, self.tally
        return {
            "inputs": self._total,
            "done_before": self._done,
            "answered": tally.rows,
            "errors": dict(tally.errors),
            "audio_hours": round(tally.audio_s / 3600, 3),
            "seconds": round(time.monotonic() - self._begun_s, 1),
            "working_seconds": round(took_s, 1),
            "times_real_time": round(tally.audio_s / took_s, 1) if tally.audio_s else None,
        }


def write_time(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
