"""The operator's metrics of a TorchServe worker, and its log: a JSON line for each request.

Numbers only: nothing of a request's or an answer's content comes in here.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from device_io import request_header
from speechtext.measurements import BatchMeasurements

logger = logging.getLogger(__name__)

# The sizes of a request, and the counter that adds each up.
COUNTERS = {
    "audio_s": "AudioSeconds",
    "tokens_in": "TokensIn",
    "tokens_out": "TokensOut",
    "explanation_steps": "ExplanationSteps",
}
BYTES_PER_MEGABYTE = 2**20
# What may stand in a log as it is.
HARMLESS_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def report(measurements: BatchMeasurements, statuses: Sequence[int | None], context: Any) -> None:
    """Emit a batch's metrics, those that the server's metrics.yaml names, and a line per request.

    `statuses` are the HTTP statuses of its answers, None for one that is being made.
    """
    if context.metrics is not None:
        _emit(measurements, statuses, context)
    shared = {stage: round(spent, 3) for stage, spent in measurements.stages_ms.items()}
    for index, (status, sizes) in enumerate(zip(statuses, measurements.requests, strict=True)):
        if status is None:
            continue
        line = {
            "request_id": context.get_request_id(index),
            **_given_id(context, index),
            "model": context.model_name,
            "status": status,
            "batch_size": len(statuses),
            **{f"{stage}_ms": spent for stage, spent in shared.items()},
            **{name: round(size, 3) for name, size in sizes.items()},
        }
        logger.info(json.dumps(line))


def _given_id(context: Any, index: int) -> dict[str, str]:
    """Return the name that a client, or the gateway, gave its request, where it is harmless."""
    given = request_header(context, index, "x-request-id")
    return {"x_request_id": given} if given and HARMLESS_ID.fullmatch(given) else {}


def _emit(measurements: BatchMeasurements, statuses: Sequence[int | None], context: Any) -> None:
    cache = context.metrics.cache
    known = {name: metric for metrics in cache.values() for name, metric in metrics.items()}

    def emit(name: str, value: float, *dimensions: str) -> None:
        if name in known:
            known[name].add_or_update(round(value, 6), [context.model_name, *dimensions])

    for status, count in Counter(filter(None, statuses)).items():
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
