"""Progress lines with the time that is left."""

import time


class Progress:
    """Prints how far a long task has come, and when it will end at the speed so far."""

    def __init__(self, task: str, total: int, every_s: float = 15.0) -> None:
        self._task = task
        self._total = total
        self._every_s = every_s
        self._started_s = self._reported_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the task began."""
        return time.monotonic() - self._started_s

    def report_now_and_then(self, done: int, detail: str = "") -> None:
        """Print a line if the last one is long enough ago, or if this is the end."""
        if done < self._total and time.monotonic() - self._reported_s < self._every_s:
            return
        self._reported_s = time.monotonic()
        left_min = self.elapsed_s * (self._total - done) / done / 60
        line = f"{self._task}: {done} of {self._total}, {left_min:.1f} min left"
        print(f"{line}; {detail}" if detail else line, flush=True)
