"""Competitors timed side by side."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
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
