"""The loop that answers a TorchServe batch, each of its rows on its own merits.

A request's way: `answer_requests` parses each row, runs the good rows together, and puts the
answers back in order. A row that cannot be answered gets its own status and error body; its
neighbours never notice.
"""

import gc
import logging
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import torch

from device_io import Answer, RequestError, Row, came_by_http
from host_memory import HostMemory
from measurements import measure_batch, report, stage
from shutdown_gate import pass_gate

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
_memory = HostMemory()
# How TorchServe is told that an answer, or the last part of one, is all.
STREAM_HEADER = "ts_stream_next"
# When a server that is stopped now may be there again.
RESTART_S = 5


class Parts:
    """The parts of a request's answer that are sent before the rest of it, each once.

    `send` is TorchServe's `send_intermediate_predict_response`, which only handlers import.
    """

    def __init__(
        self, send: Callable[..., None], context: Any, index: int, media_type: str
    ) -> None:
        self._send = send
        self._context = context
        self._index = index
        self._media_type = media_type
        self._sent = 0

    def tell(self, number: int, part: str) -> None:
        """Send a part, unless one of that number was sent: a batch that failed is run again."""
        if number < self._sent:
            return
        self._sent = number + 1
        self._context.set_response_content_type(self._index, self._media_type)
        ids = {self._index: self._context.request_ids[self._index]}
        self._send({self._index: part}, ids, "Part", HTTPStatus.OK.value, self._context)


def answer_requests(
    rows: Sequence[Row],
    context: Any,
    parse: Callable[[int, Row], Request],
    run: Callable[[Sequence[Request]], Sequence[Any]],
) -> list[Any]:
    """Answer every row of a batch, in order, each on its own merits.

    `parse(index, row)` turns a row into a request or raises `RequestError`; `run(requests)` answers
    all good ones together, one answer each.
    """
    with pass_gate() as open_, measure_batch(len(rows)) as measurements:
        outcomes = _answer_all(rows, parse, run) if open_ else [_stopping()] * len(rows)
        _memory.give_back()
    if context is not None and context.request_ids:
        report(measurements, [_status_of(outcome) for outcome in outcomes], context)
    return [_write(outcome, index, context) for index, outcome in enumerate(outcomes)]


def _answer_all(
    rows: Sequence[Row],
    parse: Callable[[int, Row], Request],
    run: Callable[[Sequence[Request]], Sequence[Any]],
) -> list[Any]:
    with stage("parse"):
        outcomes: list[Any] = [_parse_row(parse, index, row) for index, row in enumerate(rows)]
    good = [
        index for index, outcome in enumerate(outcomes) if not isinstance(outcome, RequestError)
    ]
    for index, answer in zip(good, _run_isolated(run, [outcomes[i] for i in good]), strict=True):
        outcomes[index] = answer
    return outcomes


def _stopping() -> RequestError:
    return RequestError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "ServerStopping",
        "Expected a server that goes on; this one is being stopped. Try again.",
        retry_after_s=RESTART_S,
    )


def _status_of(outcome: Any) -> int:
    return outcome.status.value if isinstance(outcome, RequestError) else HTTPStatus.OK.value


def _parse_row(
    parse: Callable[[int, Row], Request], index: int, row: Row
) -> Request | RequestError:
    try:
        return parse(index, row)
    except Exception as error:
        return _as_request_error(error)


def _run_isolated(
    run: Callable[[Sequence[Request]], Sequence[Any]], requests: Sequence[Request]
) -> list[Any]:
    """Run a batch; where it fails, run its halves, down to the single requests at fault."""
    if not requests:
        return []
    try:
        answers = list(run(requests))
        if len(answers) != len(requests):
            raise RuntimeError(f"{len(requests)} requests gave {len(answers)} answers")
        return answers
    except Exception as error:
        if len(requests) == 1:
            return [_as_request_error(error)]
    # Outside the except block: the traceback would keep the failed batch's tensors alive.
    gc.collect()
    torch.cuda.empty_cache()
    half = len(requests) // 2
    return _run_isolated(run, requests[:half]) + _run_isolated(run, requests[half:])


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if is_out_of_memory(error):
        return RequestError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            "OutOfMemory",
            "Expected a request that fits in this worker's memory; this one alone does not. "
            "Send a shorter one.",
        )
    # The exception's own text may quote the payload, so the log gets its type and place only.
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("Unexpected %s while answering a request:\n%s", type(error).__name__, places)
    return RequestError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "InternalError",
        "The server failed to answer this request; its log says where.",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception means that memory ran out, on the GPU or on the host."""
    out_of_host_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or out_of_host_memory


def _write(outcome: Any, index: int, context: Any) -> Any:
    served = context is not None and context.request_processor
    if served and context.request_ids and not came_by_http(context, index):
        # A gRPC request, whole or StreamPredictions: without this header the latter ends its worker
        # in TorchServe 0.12. An answer to HTTP with it would be the last part of a stream.
        context.set_response_header(index, STREAM_HEADER, "false")
    if isinstance(outcome, RequestError):
        if served:
            context.set_response_status(outcome.status.value, outcome.status.phrase, index)
        outcome = Answer(outcome.body(), "application/json", outcome.headers)
    if not isinstance(outcome, Answer):
        return outcome
    if served:
        if outcome.media_type:
            context.set_response_content_type(index, outcome.media_type)
        for name, value in outcome.headers.items():
            context.set_response_header(index, name, value)
    return outcome.content
