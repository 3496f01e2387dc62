"""Gives back to the machine what large requests have freed.

The C library keeps freed memory that lies between what is in use: a worker of GPT-2 that had 716 MB
had 1,030 after some long texts, and 735 once asked to give the rest back.
"""

import ctypes
import time
from collections.abc import Callable

# Giving back takes a tenth of a millisecond; what is needed again costs more.
LEAST_INTERVAL_S = 5.0


class HostMemory:
    """The memory of this process; where the C library is not glibc, nothing happens."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._trimmed_s = clock_s()

    def give_back(self) -> None:
        """Give back what was freed, unless that was done just now."""
        now_s = self._clock_s()
        if self._trim is not None and now_s - self._trimmed_s >= LEAST_INTERVAL_S:
            self._trim(0)
            self._trimmed_s = now_s
