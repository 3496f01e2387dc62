"""Gives back to the machine what large requests have freed.

The C library keeps freed memory that lies between what is in use: a worker of GPT-2 that had 716 MB
had 1,030 after some long texts, and 735 once asked to give the rest back.
"""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/statm")
# Giving back takes some milliseconds: not more often than this, and not for less.
LEAST_INTERVAL_S, LEAST_GROWTH = 5.0, 1.01


class HostMemory:
    """The memory of this process; where the system cannot tell or give back, nothing happens."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if STATUS.exists() else None
        self._trimmed_s = clock_s()
        self._kept_bytes = 0

    def give_back(self) -> bool:
        """Give back what was freed since the last time, where that may be much; tell whether."""
        now_s = self._clock_s()
        if self._trim is None or now_s - self._trimmed_s < LEAST_INTERVAL_S:
            return False
        self._trimmed_s = now_s
        if resident_bytes() < self._kept_bytes * LEAST_GROWTH:
            return False
        self._trim(0)
        self._kept_bytes = resident_bytes()
        return True


def resident_bytes() -> int:
    """Return how much of the machine's memory this process has."""
    pages = int(STATUS.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
