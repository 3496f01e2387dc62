"""TorchServe's continuous batching: requests come again, call by call, until they are answered.

With `continuousBatching: true` TorchServe 0.12 sends all open requests in each call, and those that
came since; it leaves out a stream whose reader has gone. It keeps a request open until it is told
`ts_stream_next: false`. Told so at first, it would send an answer without its head, and it closes a
connection after the head of an error: an answer is sent in one message and ended in the next, and
an error is sent whole. A request that is told nothing in a call goes on as well.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from batches import (
    Answer,
    Pending,
    answer_all,
    as_answer,
    describe_or,
    give_memory_back,
    set_headers,
    status_of,
    stopping,
    write_outcome,
)
from device_io import Row, came_by_prediction, response_timeout_s
from request_envelopes import open_envelopes
from shutdown_gate import pass_gate
from speechtext.allowance import allow
from speechtext.errors import RequestError
from speechtext.measurements import BatchMeasurements, measure_batch, note_size
from speechtext.text.generation import TextGeneration
from speechtext.text.open_texts import OpenText, OpenTexts
from speechtext.text.predictor import TextPredictor
from text_requests import (
    EVENT_STREAM,
    TextRequest,
    answer_by_kind,
    send_token,
    tell_dropped,
    write_answer,
)
from worker_metrics import report

KEY = "continuousBatching"
# For how long tokens are added before whoever came meanwhile is let in.
CALL_S = 0.02
# What TorchServe is told of a request: that it goes on, or that its answer is all. It says nothing
# by itself where an answer is whole.
GOES_ON, ENDS, WHOLE = False, True, None


@dataclass(frozen=True, eq=False)
class PendingText(Pending):
    """A request whose text is being continued."""

    request: TextRequest
    text: OpenText


@dataclass(eq=False)
class _Open:
    """A request that TorchServe sends again: its answer, and how much of that was sent."""

    outcome: Answer | RequestError | Pending
    by_http: bool
    has_head: bool = False
    sent: bool = False
    stages_ms: Counter[str] = field(default_factory=Counter)


def make_continuous_batching(
    predictor: TextPredictor,
    explain: Callable[[Sequence[TextRequest]], list[Any]],
    config: Mapping[str, Any],
) -> "ContinuousBatching | None":
    """Return what answers a worker's calls, None for a model that answers all at once.

    Raises `ValueError` where `config`, the model's YAML, asks for it all the same.
    """
    if isinstance(predictor.task, TextGeneration):
        if config.get(KEY):
            # TorchServe writes a line for each call, which would be one for each token.
            logging.getLogger().addFilter(lambda record: record.module != "otf_message_handler")
        return ContinuousBatching(OpenTexts(predictor, predictor.task), explain)
    if config.get(KEY):
        raise ValueError(
            f"{KEY}: expected false, as only text generation goes on token by token, got true."
        )
    return None


def goes_on(context: Any) -> bool:
    """Tell whether whoever calls sends a request until it is told that its answer is all.

    Engines that do so set the key of TorchServe's in the handler's context.
    """
    return bool(context.request_ids and (context.model_yaml_config or {}).get(KEY))


class ContinuousBatching:
    """Answers the calls of TorchServe's continuous batching; explanations with `explain`, whole."""

    def __init__(
        self, texts: OpenTexts, explain: Callable[[Sequence[TextRequest]], list[Any]]
    ) -> None:
        self._texts = texts
        self._explain = explain
        self._open: dict[str, _Open] = {}
        self._gate: ExitStack | None = None

    def answer(
        self,
        given: Sequence[Any],
        context: Any,
        parse: Callable[[int, Row], TextRequest],
        description: Mapping[str, Any],
    ) -> list[Any]:
        """Return what each request of a call is sent now; those told nothing lose their ids.

        `parse(index, row)` reads the row of a new request, or raises `RequestError`.
        """
        rows, joined = open_envelopes(given)
        if joined:
            raise ValueError("continuousBatching: expected no service_envelope.")
        ids = dict(context.request_ids)
        self._keep_only(set(ids.values()))
        with allow(response_timeout_s(context)), measure_batch(len(rows)) as measurements:
            read = describe_or(parse, context, description)
            new = [row for row in rows if ids[row[0]] not in self._open]
            self._begin(new, context, read)
            self._advance()
            statuses = [self._settle(self._open[ids[each]], each, measurements) for each in ids]
            give_memory_back()
        report(measurements, statuses, context)
        context.stopping_criteria = {}
        sent = [self._send(ids[index], index, context) for index in ids]
        self._hold_gate()
        return sent

    def _keep_only(self, ids: set[str]) -> None:
        """Forget the requests whose clients have gone."""
        for name in self._open.keys() - ids:
            gone = self._open.pop(name).outcome
            if isinstance(gone, PendingText):
                self._texts.remove(gone.text)

    def _begin(
        self, rows: Sequence[tuple[int, Row]], context: Any, read: Callable[..., Any]
    ) -> None:
        if not rows:
            return
        with pass_gate() as open_:
            outcomes = answer_all(rows, read, self._run) if open_ else [stopping()] * len(rows)
        for (index, _), outcome in zip(rows, outcomes, strict=True):
            self._open[context.request_ids[index]] = _Open(
                outcome, came_by_prediction(context, index)
            )
        self._hold_gate()

    def _run(self, requests: Sequence[TextRequest]) -> list[Any]:
        return answer_by_kind(requests, self._begin_texts, self._explain)

    def _begin_texts(self, requests: Sequence[TextRequest]) -> list[Any]:
        for request in requests:
            if request.parts:
                request.parts.keep()
        examples = [request.example for request in requests]
        found = self._texts.begin(examples, partial(send_token, requests))
        return [
            each if isinstance(each, RequestError) else PendingText(request, each)
            for request, each in zip(requests, found, strict=True)
        ]

    @property
    def _pending(self) -> list[PendingText]:
        outcomes = (each.outcome for each in self._open.values())
        return [each for each in outcomes if isinstance(each, PendingText)]

    def _advance(self) -> None:
        """Add tokens to the texts, one to each where somebody reads them as they are made."""
        pending = self._pending
        until_s = time.monotonic() + CALL_S
        # Nobody waits for the end of an answer that is there.
        going = pending and not any(each.sent for each in self._open.values())
        while going:
            self._texts.advance()
            over = time.monotonic() > until_s or any(each.request.parts for each in pending)
            going = not over and not any(each.text.ended for each in pending)

    def _hold_gate(self) -> None:
        """Let no server be stopped while a request is open."""
        if self._open and self._gate is None:
            self._gate = ExitStack()
            self._gate.enter_context(pass_gate())
        elif not self._open and self._gate is not None:
            self._gate.close()
            self._gate = None

    def _settle(self, open_: _Open, index: int, measurements: BatchMeasurements) -> int | None:
        """Find out whether a request has its answer now; return the status of that."""
        if open_.sent:
            return None
        pending = open_.outcome
        if isinstance(pending, PendingText):
            open_.stages_ms.update(measurements.stages_ms)
            if not pending.text.ended:
                return None
            request = replace(pending.request, index=index)
            open_.outcome = as_answer(write_answer(request, self._texts.finish(pending.text)))
            for stage, spent_ms in open_.stages_ms.items():
                note_size(index, f"{stage}_ms", spent_ms)
        return status_of(open_.outcome).value

    def _send(self, name: str, index: int, context: Any) -> Any:
        """Return what a request is sent now, and say how it goes on."""
        open_ = self._open[name]
        if open_.sent:
            return self._tell(name, index, context, ENDS, "")
        outcome = open_.outcome
        if isinstance(outcome, Pending):
            return self._send_parts(open_, name, index, context)
        content = write_outcome(outcome, index, context)
        if open_.has_head or not open_.by_http:
            return self._tell(name, index, context, ENDS, content)
        open_.sent = True
        is_error = isinstance(outcome, RequestError)
        return self._tell(name, index, context, WHOLE if is_error else GOES_ON, content)

    def _send_parts(self, open_: _Open, name: str, index: int, context: Any) -> str:
        pending = open_.outcome
        parts = pending.request.parts if isinstance(pending, PendingText) else None
        content = parts.take() if parts else ""
        if not content or not isinstance(pending, PendingText):
            # Told nothing, a request is sent again.
            del context.request_ids[index]
            return ""
        open_.has_head = True
        set_headers(context, index, EVENT_STREAM, tell_dropped(pending.text.window.dropped_tokens))
        return str(self._tell(name, index, context, GOES_ON, content))

    def _tell(self, name: str, index: int, context: Any, ends: bool | None, content: Any) -> Any:
        context.stopping_criteria[index] = lambda _: ends
        if ends:
            del self._open[name]
        return content
