"""Gives back to the machine what requests have freed.

The C library keeps freed memory that lies between what is in use: a worker of GPT-2 that had 716 MB
had 1,030 after some long texts, and 735 once asked to give the rest back. Python keeps objects that
refer to each other, such as the 4,000 of a picture, until its collector looks at all that there is.
Its cache of methods keeps up to 4,096 names, and PyTorch makes a new one each time it looks one up.
Each keeps the megabyte that it lies in: eight batches of long texts left 14 MB, without names 3.
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


def keep_loaded() -> None:
    """Tell the collector that what is loaded by now stays, so that it looks at the rest alone.

    A loaded worker has 400,000 objects, and looking at them took 160 ms of some requests.
    """
    # Of an archive that this process loaded before, nothing may be in use any more.
    gc.unfreeze()
    # What loading took for a while is free for the other workers of a GPU, too.
    free_memory()
    gc.freeze()


class HostMemory:
    """The memory of this process; a C library that is not glibc is left alone."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._trim = find_trim()
        self._given_back_s = clock_s()

    def give_back(self) -> None:
        """Give back what was freed, unless that was done just now."""
        now_s = self._clock_s()
        if now_s - self._given_back_s < LEAST_INTERVAL_S:
            return
        gc.collect()
        _clear_caches()
        if self._trim is not None:
            self._trim(0)
        self._given_back_s = now_s


def find_trim() -> Callable[[int], Any] | None:
    """Return glibc's `malloc_trim`, or None where the C library is another one."""
    try:
        trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except TypeError:  # Windows has no library of the process itself
        return None
    return trim


def _clear_caches() -> None:
    """Let Python forget the methods that it looked up, by the name that its release has for it."""
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()
