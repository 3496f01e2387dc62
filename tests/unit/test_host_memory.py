"""Freed memory goes back to the machine."""

import psutil

from host_memory import HostMemory

BLOCK_BYTES = 1000


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_freed_memory_is_given_back_now_and_then() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    blocks = [bytearray(BLOCK_BYTES) for _ in range(100_000)]
    # Those that stay keep the C library from giving back the others by itself.
    kept, blocks = blocks[::50], []
    assert len(kept) == 2000
    before = resident_bytes()
    memory.give_back()
    assert before - resident_bytes() < 20 * 2**20
    now_s = 10.0
    memory.give_back()
    assert before - resident_bytes() > 50 * 2**20
