"""Competitors timed side by side."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# Some engines' threads spin on for a while after their work, beside whatever runs next.
SHORT_S = 1.0


def time_side_by_side(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return each run's median seconds; they take turns, after one warm-up each.

    A short one runs twice in each turn, and its second run counts, so that what ran before it
    does not.
    """
    seconds = {name: [_seconds_of(run)] for name, run in runs.items()}
    for turn in range(1, repeats + 1):
        for name, run in runs.items():
            if seconds[name][-1] < SHORT_S:
                run()
            seconds[name].append(_seconds_of(run))
        print(f"  turn {turn} of {repeats}", file=sys.stderr, flush=True)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def _seconds_of(run: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s
