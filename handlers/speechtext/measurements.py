"""What answering took: milliseconds by stage and sizes, for whoever operates the model.

Numbers only: nothing of a request's or an answer's content comes in here. A batch is measured while
it is answered; whatever takes part adds to the batch at hand, as tracers do, and adds to nothing
where none is.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["parse", "model", "decode", "attribution"]


@dataclass
class BatchMeasurements:
    """The milliseconds and sizes of a batch; `requests` are those of each of its requests."""

    requests: list[dict[str, float]]
    stages_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    computed: int = 0
    used: int = 0
    gauges: dict[str, float] = field(default_factory=dict)

    def total(self, name: str) -> float:
        """Return a size of all requests together."""
        return sum(request.get(name, 0) for request in self.requests)


_measured: ContextVar[BatchMeasurements | None] = ContextVar("measured", default=None)


@contextmanager
def measure_batch(size: int) -> Iterator[BatchMeasurements]:
    """Measure a batch of `size` requests while it is answered."""
    measurements = BatchMeasurements([{} for _ in range(size)])
    token = _measured.set(measurements)
    try:
        yield measurements
    finally:
        _measured.reset(token)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Add the time that is spent here to a stage of the batch; stages do not overlap."""
    started_s = time.perf_counter()
    try:
        yield
    finally:
        if measurements := _measured.get():
            measurements.stages_ms[name] += (time.perf_counter() - started_s) * 1000


def note_padding(computed: int, used: int) -> None:
    """Add positions that the model computed, of which only so many hold tokens or frames."""
    if measurements := _measured.get():
        measurements.computed += computed
        measurements.used += used


def note_size(index: int, name: str, value: float) -> None:
    """Add to a size of the batch's request of that number."""
    if measurements := _measured.get():
        sizes = measurements.requests[index]
        sizes[name] = sizes.get(name, 0) + value


def note_gauge(name: str, value: float) -> None:
    """Set a number of this worker as it is now."""
    if measurements := _measured.get():
        measurements.gauges[name] = value
