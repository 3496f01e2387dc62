"""The loop that answers a TorchServe batch, each of its rows on its own merits.

A request's way: `answer_requests` parses each row, runs the good rows together, and puts the
answers back in order. A row that cannot be answered gets its own status and error body; its
neighbours never notice.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from ts.handler_utils.utils import send_intermediate_predict_response

from device_io import Row, came_by_prediction, response_timeout_s, wants_description
from request_envelopes import open_envelopes
from shutdown_gate import pass_gate
from speechtext.allowance import allow
from speechtext.errors import (
    DeadlineError,
    DeviceLostError,
    ImpossibleRequestError,
    InternalError,
    MalformedRequestError,
    NonFiniteOutputError,
    OutOfMemoryError,
    RequestError,
    RequestTooLargeError,
    SessionConflictError,
    SessionGoneError,
    UnavailableError,
    UnsupportedMediaError,
)
from speechtext.failures import as_request_error, run_isolated
from speechtext.host_memory import HostMemory
from speechtext.measurements import measure_batch, stage
from worker_metrics import report

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
_memory = HostMemory()
STATUSES: dict[type[RequestError], HTTPStatus] = {
    MalformedRequestError: HTTPStatus.BAD_REQUEST,
    SessionConflictError: HTTPStatus.CONFLICT,
    SessionGoneError: HTTPStatus.GONE,
    RequestTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ImpossibleRequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeviceLostError: HTTPStatus.SERVICE_UNAVAILABLE,
    InternalError: HTTPStatus.SERVICE_UNAVAILABLE,
    NonFiniteOutputError: HTTPStatus.SERVICE_UNAVAILABLE,
    OutOfMemoryError: HTTPStatus.INSUFFICIENT_STORAGE,
}
# How a process ends whose GPU only another can use, and how long after its last answers.
LOST_STATUS, END_AFTER_S = 70, 1.0
# How TorchServe is told that an answer, or the last part of one, is all.
STREAM_HEADER = "ts_stream_next"
# No browser guesses at what else an answer may be: WHATWG Fetch, section 3.6.
SNIFFING = ("X-Content-Type-Options", "nosniff")
JSON, PLAIN = "application/json", "text/plain"
# When a server that is stopped now may be there again.
RESTART_S = 5


class Answer(NamedTuple):
    """What a request gets: plain text or JSON by its content, where no media type is named."""

    content: Any
    media_type: str | None = None
    headers: Mapping[str, str] = {}

    @property
    def content_type(self) -> str:
        """Return the header `Content-Type`; texts without a charset may be read as Latin-1."""
        named = self.media_type or (PLAIN if isinstance(self.content, str) else JSON)
        return f"{named}; charset=utf-8" if named == PLAIN else named


class Pending:
    """Stands for an answer that is being made."""


class Parts:
    """The parts of a request's answer that are sent before the rest of it, each once.

    What cannot be sent, as nobody listens, is kept until it is taken.
    """

    def __init__(self, context: Any, index: int, media_type: str) -> None:
        self._context = context
        self._index = index
        self._media_type = media_type
        self._sent = 0
        self._kept: dict[int, str] = {}

    def send(
        self, number: int, part: str, last: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a part, unless one of that number was sent: a batch that failed is run again.

        Parts are numbered from 1. The `last` one is kept: it is the end of the answer. `headers`
        are the answer's, of which the first part that is sent has them.
        """
        if number <= self._sent:
            return
        if last or self._context is None or not self._context.request_ids:
            self._kept[number] = part
            return
        self._sent = number
        set_headers(self._context, self._index, self._media_type, headers)
        ids = {self._index: self._context.request_ids[self._index]}
        send_intermediate_predict_response(
            {self._index: part}, ids, "Part", HTTPStatus.OK.value, self._context
        )

    def keep(self) -> None:
        """Keep the parts from now on, for whoever takes them."""
        self._context = None

    def take(self) -> str:
        """Return the parts that were kept, and forget them."""
        kept, self._kept = self._kept, {}
        return "".join(kept[number] for number in sorted(kept))


def answer_requests(
    given: Sequence[Any],
    context: Any,
    parse: Callable[[int, Row], Request],
    run: Callable[[Sequence[Request]], Sequence[Any]],
    description: Mapping[str, Any] = {},
) -> list[Any]:
    """Answer every row of a batch, in order, each on its own merits.

    `parse(index, row)` turns a row of the request `index` into what `run` takes, or raises
    `RequestError`; `run(requests)` answers all good ones together, one answer each. `description`
    is what a row gets that asks what the model is.
    """
    rows, joined = open_envelopes(given)
    owners = [owner for owner, _ in rows]
    timed = allow(response_timeout_s(context))
    with timed, pass_gate() as open_, measure_batch(max(owners, default=-1) + 1) as measurements:
        read = describe_or(parse, context, description)
        outcomes = answer_all(rows, read, run) if open_ else [stopping()] * len(rows)
        give_memory_back()
    if context is not None and context.request_ids:
        report(measurements, _worst_statuses(owners, outcomes), context)
    return [
        write_outcome(outcome, owner, context, joined)
        for owner, outcome in zip(owners, outcomes, strict=True)
    ]


def describe_or(
    parse: Callable[[int, Row], Request], context: Any, description: Mapping[str, Any]
) -> Callable[[int, Row], Request | Answer]:
    """Return what reads a row: a description for one that asks what the model is."""

    def read(index: int, row: Row) -> Request | Answer:
        if wants_description(context, index):
            return Answer(description, JSON)
        return parse(index, row)

    return read


def give_memory_back() -> None:
    """Give back what batches have freed, now and then."""
    _memory.give_back()


def answer_all(
    rows: Sequence[tuple[int, Row]],
    read: Callable[[int, Row], Request | Answer],
    run: Callable[[Sequence[Request]], Sequence[Any]],
) -> list[Any]:
    """Return the answer or the error of each row, in order, or what is pending."""
    with stage("parse"):
        outcomes: list[Any] = [_parse_row(read, owner, row) for owner, row in rows]
    good = [
        index
        for index, outcome in enumerate(outcomes)
        if not isinstance(outcome, RequestError | Answer)
    ]
    for index, answer in zip(good, run_isolated(run, [outcomes[i] for i in good]), strict=True):
        outcomes[index] = as_answer(answer)
    return outcomes


def as_answer(given: Any) -> Answer | RequestError | Pending:
    """Return an answer that can be written, or the error of one that is no JSON or no UTF-8.

    TorchServe's worker ends where it cannot encode an answer.
    """
    if isinstance(given, RequestError | Pending):
        return given
    answer = given if isinstance(given, Answer) else Answer(given)
    content = answer.content
    if not isinstance(content, bytes):
        try:
            (content if isinstance(content, str) else dump_json(content)).encode()
        except (TypeError, ValueError) as error:
            return as_request_error(error)
    return answer


def dump_json(content: Any) -> str:
    """Return JSON on one line; raises `ValueError` for numbers that JSON does not have.

    Python writes `NaN` and `Infinity` otherwise, which no other parser reads: RFC 8259, section 6.
    """
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _worst_statuses(owners: Sequence[int], outcomes: Sequence[Any]) -> list[int]:
    """Return the status of each request: an error, where one of its rows has one."""
    statuses: dict[int, int] = {}
    for owner, outcome in zip(owners, outcomes, strict=True):
        statuses[owner] = max(statuses.get(owner, 0), status_of(outcome).value)
    return [
        statuses.get(owner, HTTPStatus.OK.value) for owner in range(max(owners, default=-1) + 1)
    ]


def stopping() -> RequestError:
    """Return why nothing is answered any more."""
    return UnavailableError(
        "ServerStopping",
        "Expected a running server; this one is shutting down. Try again.",
        retry_after_s=RESTART_S,
    )


def _parse_row(
    parse: Callable[[int, Row], Request], index: int, row: Row
) -> Request | RequestError:
    try:
        return parse(index, row)
    except Exception as error:
        return as_request_error(error)


def status_of(outcome: Any) -> HTTPStatus:
    """Return the HTTP status of an answer or an error."""
    return STATUSES[type(outcome)] if isinstance(outcome, RequestError) else HTTPStatus.OK


def error_body(error: RequestError) -> dict[str, int | str]:
    """Return the body of an error, in the shape of TorchServe's own."""
    return {"code": status_of(error).value, "type": error.kind, "message": error.message}


def write_outcome(
    outcome: Answer | RequestError, index: int, context: Any, joined: bool = False
) -> Any:
    """Return what TorchServe sends, and tell it how; `joined` answers become part of JSON."""
    served = context is not None and context.request_processor
    if served and context.request_ids and not came_by_prediction(context, index):
        # A gRPC request, whole or StreamPredictions: without this header the latter ends its worker
        # in TorchServe 0.12. An answer to HTTP with it would be the last part of a stream.
        context.set_response_header(index, STREAM_HEADER, "false")
    if isinstance(outcome, RequestError):
        if isinstance(outcome, DeviceLostError):
            end_worker_soon()
        if served:
            status = status_of(outcome)
            context.set_response_status(status.value, status.phrase, index)
        outcome = Answer(error_body(outcome), JSON, _error_headers(outcome))
    if served:
        set_headers(context, index, JSON if joined else outcome.content_type, outcome.headers)
    return outcome.content


def end_worker_soon() -> None:
    """End this process once its answers are sent; whoever started it starts another."""
    logger.error("The GPU no longer responds: this worker exits so that another can replace it.")
    threading.Timer(END_AFTER_S, os._exit, (LOST_STATUS,)).start()


def set_headers(
    context: Any, index: int, content_type: str, others: Mapping[str, str] | None = None
) -> None:
    """Tell TorchServe the headers of an answer."""
    context.set_response_content_type(index, content_type)
    for name, value in (SNIFFING, *(others or {}).items()):
        context.set_response_header(index, name, value)


def _error_headers(error: RequestError) -> dict[str, str]:
    """Return the headers of an error: when to try again, by RFC 9110, section 10.2.3."""
    retry_after_s = getattr(error, "retry_after_s", None)
    return {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
