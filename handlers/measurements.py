"""What answering took: milliseconds by stage and sizes, for the operator's metrics and log.

Numbers only: nothing of a request's or an answer's content comes in here. A batch is measured while
it is answered; whatever takes part adds to the batch at hand, as tracers do, and adds to nothing
where none is.
"""

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

logger = logging.getLogger(__name__)

Stage = Literal["parse", "model", "decode", "attribution"]
# The sizes of a request, and the counter that adds each up.
COUNTERS = {
    "audio_s": "AudioSeconds",
    "tokens_in": "TokensIn",
    "tokens_out": "TokensOut",
    "explanation_steps": "ExplanationSteps",
}
BYTES_PER_MEGABYTE = 2**20


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
    """Set a size of the batch's request of that number, one of `COUNTERS`."""
    if measurements := _measured.get():
        measurements.requests[index][name] = value


def note_gauge(name: str, value: float) -> None:
    """Set a number of this worker as it is now."""
    if measurements := _measured.get():
        measurements.gauges[name] = value


def report(measurements: BatchMeasurements, statuses: Sequence[int], context: Any) -> None:
    """Emit a batch's metrics, those that the server's metrics.yaml names, and a line per request.

    `statuses` are the HTTP statuses of its answers.
    """
    if context.metrics is not None:
        _emit(measurements, statuses, context)
    shared = {stage: round(spent, 3) for stage, spent in measurements.stages_ms.items()}
    for index, (status, sizes) in enumerate(zip(statuses, measurements.requests, strict=True)):
        line = {
            "request_id": context.get_request_id(index),
            "model": context.model_name,
            "status": status,
            "batch_size": len(statuses),
            **{f"{stage}_ms": spent for stage, spent in shared.items()},
            **{name: round(size, 3) for name, size in sizes.items()},
        }
        logger.info(json.dumps(line))


def _emit(measurements: BatchMeasurements, statuses: Sequence[int], context: Any) -> None:
    cache = context.metrics.cache
    known = {name: metric for metrics in cache.values() for name, metric in metrics.items()}

    def emit(name: str, value: float, *dimensions: str) -> None:
        if name in known:
            known[name].add_or_update(round(value, 6), [context.model_name, *dimensions])

    for status, count in Counter(statuses).items():
        emit("Answers", count, str(status))
    for stage_name, spent_ms in measurements.stages_ms.items():
        emit(f"{stage_name.capitalize()}Milliseconds", spent_ms)
    for name, counter in COUNTERS.items():
        if total := measurements.total(name):
            emit(counter, total)
    for name, value in (_ratios(measurements) | measurements.gauges).items():
        emit(name, value, _worker_of(context))


def _worker_of(context: Any) -> str:
    """Return the number of this worker, which its successor takes over: the end of its socket."""
    name = context.cl_socket.getsockname()
    return str(name[-1] if isinstance(name, tuple) else name.rpartition(".")[-1])


def _ratios(measurements: BatchMeasurements) -> dict[str, float]:
    """Return what the last batch was like."""
    gauges: dict[str, float] = {"BatchSize": len(measurements.requests)}
    if measurements.computed:
        gauges["PaddingWaste"] = 100 * (1 - measurements.used / measurements.computed)
    if audio_s := measurements.total("audio_s"):
        gauges["RealTimeFactor"] = sum(measurements.stages_ms.values()) / 1000 / audio_s
    if torch.cuda.is_initialized():
        reserved = map(torch.cuda.memory_reserved, range(torch.cuda.device_count()))
        gauges["GpuMemoryReserved"] = sum(reserved) / BYTES_PER_MEGABYTE
    return gauges
