"""How long the device takes, and what it draws."""

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpu.plan import Plan, Result

# Drivers that know no power say so in words.
NUMBER = re.compile(r"\d+(\.\d+)?")
DTYPES = ("float32", "bfloat16")


def seconds_of(plan: Plan, run: Callable[[], Any]) -> float:
    """Return the median seconds of a call, until the device has done it, after one to warm up."""
    spent: list[float] = []
    for _ in range(1 + plan.amount(5, 1)):
        plan.synchronize()
        started_s = time.perf_counter()
        run()
        plan.synchronize()
        spent.append(time.perf_counter() - started_s)
    return statistics.median(spent[1:])


@contextmanager
def power(plan: Plan) -> Iterator[list[float]]:
    """Yield a list that has the watts of the card afterwards, where its driver tells them."""
    watts: list[float] = []
    if plan.device.type != "cuda" or not shutil.which("nvidia-smi"):
        yield watts
        return
    asked = ("--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=200")
    command = ["nvidia-smi", f"--id={plan.gpu_id}", *asked]
    with subprocess.Popen(  # noqa: S603 - the driver's own command
        command, stdout=subprocess.PIPE, text=True
    ) as told:
        try:
            yield watts
        finally:
            told.terminate()
            lines = told.stdout.read().splitlines() if told.stdout else []
        watts += [float(line) for line in lines if NUMBER.fullmatch(line.strip())]


def costs(
    plan: Plan, what: str, watts: Sequence[float], seconds: float, work: str
) -> Iterator[Result]:
    """Yield the memory and the energy that some work took, where the device tells them."""
    peak_mb = plan.peak_mb()
    if peak_mb is not None:
        yield Result(f"{what}: MB at most", f"{peak_mb:.0f}")
    if watts:
        yield Result(f"{what}: joules for {work}", f"{statistics.fmean(watts) * seconds:.2g}")
