"""What only some systems have is done without: each test hides it, as a Mac or Windows would."""

import ctypes
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shutdown_gate
from benchmarks import peak_memory
from speechtext.devices import count_cores
from speechtext.host_memory import HostMemory


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the gate anew where there is no fcntl, as on Windows, and then as it was."""
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "fcntl", None)
        importlib.reload(shutdown_gate)
        yield
    importlib.reload(shutdown_gate)


@pytest.mark.usefixtures("no_flock")
def test_gate_closes_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    monkeypatch.setenv(shutdown_gate.VARIABLE, str(gate))
    with shutdown_gate.pass_gate() as is_open:
        assert is_open
        # Nobody can tell that this batch still runs, so it is not waited for.
        assert not shutdown_gate.close_gate(gate, timeout_s=60)
    with shutdown_gate.pass_gate() as is_open:
        assert not is_open


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert count_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


class NoLibrary:
    """A C library that has none of glibc's own functions, as a Mac's."""


def refuse(_name: None) -> None:
    raise TypeError("expected a name, as on Windows")


@pytest.mark.parametrize("load", [lambda _name: NoLibrary(), refuse], ids=["macos", "windows"])
def test_memory_is_given_back_without_glibc(load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", load)
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    now_s = 10.0
    memory.give_back()
    assert memory._given_back_s == now_s


def test_benchmarks_run_where_no_peak_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak_memory, "PROCESS", tmp_path / "none")
    assert math.isnan(peak_memory.reset_peak_mb())
    assert math.isnan(peak_memory.peak_mb())
