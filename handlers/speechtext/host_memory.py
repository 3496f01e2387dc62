"""Gives back to the machine what requests have freed.

The C library keeps freed memory that lies between what is in use: a worker of GPT-2 that had 716 MB
had 1,030 after some long texts, and 735 once asked to give the rest back. Python keeps objects that
refer to each other, such as the 4,000 of a picture, until its collector looks at all that there is.
Its cache of methods keeps up to 4,096 names, and PyTorch makes a new one each time it looks one up.
Each keeps the megabyte that it lies in: eight batches of long texts left 14 MB, without names 3.

Left to itself, the C library gives large blocks back at once, and the machine clears each page of
the next: two microseconds for 4 KB, 35 of 130 ms of a batch of 32 live sessions.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from speechtext.devices import free_memory

# How many products oneDNN keeps code for, a piece for each shape: a hundredth of a second of it is
# made again where a recording has a new length, and 1,024, its own number, take 125 MB of a worker.
KEPT_PRODUCTS = 256
# How many convolutions ideep, between PyTorch and oneDNN, keeps with their buffers, one for each
# shape: 1,024, its own number, take 200 MB of a worker after 400 recordings.
KEPT_CONVOLUTIONS = 128
# The same of cuDNN, 0.2 MB each.
KEPT_PLANS = 500
# What is freed by itself stays below so much.
KEPT_BYTES = 256 * 2**20
# `mallopt`'s numbers for what is freed at the end of the heap and for blocks outside of it, by the
# variables that say the same.
LIMITS_OF_FREED = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}
# Giving back takes up to two milliseconds; what is needed again costs more.
LEAST_INTERVAL_S = 5.0


def limit_products() -> None:
    """Let what multiplies keep code for fewer shapes; called before the first of them.

    See "Primitive Cache" of oneDNN's developer guide, `lru_cache.hpp` of ideep, and
    pytorch/pytorch#104701 on cuDNN's plans, of which 10,000 take 2 GB of the machine's memory.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_PRODUCTS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KEPT_CONVOLUTIONS))
    os.environ.setdefault("TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT", str(KEPT_PLANS))


def keep_freed() -> None:
    """Let glibc keep freed memory until `HostMemory` gives it back, or there is much of it.

    See mallopt(3).
    """
    mallopt = _find_in_libc("mallopt")
    for name, limit in LIMITS_OF_FREED.items():
        if mallopt is not None and name not in os.environ:
            mallopt(limit, KEPT_BYTES)


def trim_freed() -> None:
    """Give back what is free by now."""
    trim = _find_in_libc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_loaded() -> None:
    """Tell the collector that what is loaded by now stays, so that it looks at the rest alone.

    A loaded worker has 400,000 objects, and looking at them took 160 ms of some requests.
    """
    # What an earlier archive of this process left may no longer be in use.
    gc.unfreeze()
    # What loading took for a while is free for the other workers of a GPU, too.
    free_memory()
    gc.freeze()
    trim_freed()


class HostMemory:
    """The memory of this process; a C library that is not glibc is left alone."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._given_back_s = clock_s()

    def give_back(self) -> None:
        """Give back what was freed, unless that was done just now."""
        now_s = self._clock_s()
        if now_s - self._given_back_s < LEAST_INTERVAL_S:
            return
        gc.collect()
        _clear_caches()
        trim_freed()
        self._given_back_s = now_s


def _find_in_libc(name: str) -> Callable[..., Any] | None:
    """Return a function of glibc, or None where the C library is another one."""
    try:
        function: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # Windows has no library of the process itself
        return None
    return function


def _clear_caches() -> None:
    """Let Python forget the methods that it looked up, by the name that its release has for it."""
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()
