"""Freed memory goes back to the machine."""

import pytest

import host_memory
from host_memory import HostMemory, resident_bytes

BLOCK_BYTES = 1000


def test_freed_memory_is_given_back() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    blocks = [bytearray(BLOCK_BYTES) for _ in range(100_000)]
    # Those that stay keep the C library from giving back the others by itself.
    kept, blocks = blocks[::50], []
    assert len(kept) == 2000
    before = resident_bytes()
    assert not memory.give_back()
    now_s = 10.0
    assert memory.give_back()
    assert before - resident_bytes() > 50 * 2**20
    now_s = 20.0
    assert not memory.give_back()


def test_nothing_happens_where_the_system_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "STATUS", host_memory.STATUS.with_name("none"))
    assert not HostMemory(lambda: 0.0).give_back()
