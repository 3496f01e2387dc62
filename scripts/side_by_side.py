"""Competitors timed side by side, and the table of it."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def time_side_by_side(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return each run's median seconds; they take turns, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started_s = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started_s)
        print(f"  turn {turn} of {repeats}", file=sys.stderr, flush=True)
    return {name: statistics.median(each) for name, each in seconds.items()}


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def reset_peak_mb() -> float:
    """Let Linux count the peak of resident memory anew; return what is resident now.

    What was freed goes back to Linux first, where the C library knows how.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Return the peak of resident memory."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000
