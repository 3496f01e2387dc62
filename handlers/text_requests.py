"""From a row of a batch to an example, and from a result of the library to the answer asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from batches import JSON, Answer, Parts, dump_json
from device_io import (
    Row,
    is_hub_client,
    preferred_media_type,
    request_body,
    request_header,
    wants_explanation,
)
from speechtext.errors import RequestError
from speechtext.failures import run_isolated
from speechtext.measurements import note_gauge, note_size
from speechtext.payloads import as_fields
from speechtext.text.base import Answer as TextAnswer
from speechtext.text.explanation.explanation import Explanation, View
from speechtext.text.explanation.pages import draw_chart, draw_page
from speechtext.text.payloads import Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.windows import EncodedBatch

EVENT_STREAM = "text/event-stream"
TRUNCATED_HEADER = "X-Truncated-Tokens"
PICTURES: dict[str, Callable[[View], Any]] = {"text/html": draw_page, "image/png": draw_chart}
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class TextRequest:
    """An example, its row in the batch, and the media type in which to explain it.

    `parts` sends the tokens of an answer as they are made, where that is asked for.
    """

    example: Example
    index: int
    explain: bool
    media_type: str
    parts: Parts | None


class EncodedPair(tuple[torch.Tensor, torch.Tensor]):
    """`(input_ids, attention_mask)`, as TorchServe's handlers hand them on, with their batch."""

    batch: EncodedBatch

    def __new__(cls, batch: EncodedBatch) -> "EncodedPair":
        """Return the two tensors of a batch, each of shape (windows, tokens)."""
        pair = super().__new__(cls, (batch.input_ids, batch.attention_mask))
        pair.batch = batch
        return pair


def describe_predictor(predictor: TextPredictor, settings: TextSettings) -> dict[str, Any]:
    """Return what a text model is, for who asks TorchServe to describe it."""
    task = predictor.task
    streams = any(field.name == "stream" for field in fields(task.parameters))
    limits = {"max_length": task.max_tokens}
    if streams:
        most = min(settings.max_new_tokens_limit, task.model.positions - 1)
        limits["max_new_tokens"] = most
    labels = task.model.labels if task.has_labels else {}
    return {
        "kind": settings.mode,
        "labels": [labels[index] for index in sorted(labels)],
        "media_types": [JSON],
        "streams": [EVENT_STREAM] if streams else [],
        "explainable": settings.captum_explanation,
        "limits": limits,
    }


def read_request(
    predictor: TextPredictor, row: Row, context: Any = None, index: int = 0
) -> TextRequest:
    """Return what a row of a batch asks for; raises `RequestError`."""
    content_type = request_header(context, index, "content-type") or ""
    accept = request_header(context, index, "accept") or ""
    explain = wants_explanation(context, index)
    # What TorchServe could not parse is in the body; other fields are a form's or an instance's.
    declared_json = content_type.startswith(JSON) and "data" not in row
    payload = as_fields(request_body(row), declared_json)
    example = predictor.read(payload, explain, is_hub_client(context, index))
    streams = not explain and predictor.task.streams(example)
    return TextRequest(
        example,
        index,
        explain,
        preferred_media_type(accept, (JSON, *PICTURES)),
        Parts(context, index, EVENT_STREAM) if streams else None,
    )


def answer_by_kind(
    requests: Sequence[TextRequest],
    predict: Callable[[Sequence[TextRequest]], list[Any]],
    explain: Callable[[Sequence[TextRequest]], list[Any]],
) -> list[Any]:
    """Return the answers to requests, in order: predictions and explanations, each together.

    Where one kind fails, the other is not answered again: what it has begun goes on.
    """
    predictions = iter(run_isolated(predict, [each for each in requests if not each.explain]))
    explanations = iter(run_isolated(explain, [each for each in requests if each.explain]))
    return [next(explanations if each.explain else predictions) for each in requests]


def send_token(requests: Sequence[TextRequest], number: int, event: TokenEvent) -> None:
    """Send a token of one of the requests; the last of all is kept for its answer's end."""
    parts = requests[number].parts
    if parts is not None:
        last, headers = event.ending is not None, tell_dropped(event.dropped_tokens)
        parts.send(event.index, write_event(event), last, headers)


def write_event(event: TokenEvent) -> str:
    """Return a token as a server-sent event, as text-generation-inference writes it."""
    content: dict[str, Any] = {"index": event.index, "token": event.token._asdict()}
    if event.top_tokens:
        content["top_tokens"] = [each._asdict() for each in event.top_tokens]
    content |= {
        "generated_text": event.generated_text,
        "details": event.ending and event.ending._asdict(),
    }
    return f"data:{dump_json(content)}\n\n"


def write_answer(request: TextRequest, found: TextAnswer | RequestError) -> Answer | RequestError:
    """Return an answer, with a header where tokens of its text were dropped, or its error."""
    if isinstance(found, RequestError):
        return found
    note_size(request.index, "tokens_in", found.tokens_in)
    if found.tokens_out:
        note_size(request.index, "tokens_out", found.tokens_out)
    dropped = tell_dropped(found.dropped_tokens)
    if request.parts is not None:
        return Answer(request.parts.take(), EVENT_STREAM, dropped)
    return Answer(found.content, headers=dropped)


def tell_dropped(tokens: int) -> dict[str, str]:
    """Return the header that tells how many tokens a text has lost, where it has."""
    return {TRUNCATED_HEADER: str(tokens)} if tokens else {}


def write_explanation(
    request: TextRequest, found: Explanation | RequestError
) -> Answer | RequestError:
    """Return an explanation as JSON or as a picture; an error stays what it is."""
    if isinstance(found, RequestError):
        return found
    note_size(request.index, "explanation_steps", found.n_steps)
    note_gauge("ExplanationDelta", found.largest_delta)
    dropped = tell_dropped(found.dropped_tokens)
    draw = PICTURES.get(request.media_type)
    if draw is None:
        return Answer(found.content(), headers=dropped)
    return Answer(draw(found.view()), request.media_type, dropped)
