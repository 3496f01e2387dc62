"""From an instance to a request of the engine, by what the model does, and all of them at once."""

import asyncio
import base64
import binascii
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from gateway.engine import (
    Answer,
    EngineError,
    ImpossibleRequestError,
    Kind,
    MalformedRequestError,
    Request,
    RequestTooLargeError,
)

JSON = "application/json"
MAX_INSTANCES = 1024
# So many of one request are with the engine: two of its batches, so that the next one is full.
AT_ONCE = 16
AUDIO = (
    Kind.SPEECH_RECOGNITION,
    Kind.LIVE_SPEECH,
    Kind.AUDIO_CLASSIFICATION,
    Kind.FRAME_CLASSIFICATION,
    Kind.SPEAKER_EMBEDDING,
    Kind.FEATURES,
)


def check_count(count: int) -> None:
    """Raise an error unless so many instances may come in one request."""
    if not count:
        raise MalformedRequestError("MissingPayload", "Expected instances, got none.")
    if count > MAX_INSTANCES:
        raise RequestTooLargeError(
            "TooManyInstances",
            f"Expected at most {MAX_INSTANCES} instances in a request, got {count}.",
        )


def text_request(fields: Mapping[str, str], parameters: Mapping[str, Any]) -> Request:
    """Return a request for texts by name; with parameters, in the form of Hugging Face."""
    if parameters.get("stream"):
        raise ImpossibleRequestError(
            "InvalidParameter", "Expected no stream: an answer of this protocol comes whole."
        )
    if not parameters:
        return json_request(fields)
    inputs: Any = fields["text"] if list(fields) == ["text"] else fields
    return json_request({"inputs": inputs, "parameters": parameters})


def speech_request(
    kind: Kind | None,
    audio: bytes,
    parameters: Mapping[str, Any],
    content_type: str | None = None,
    accept: str | None = None,
) -> Request:
    """Return a request for a recording; `content_type` and `accept` are media types."""
    headers = session_headers(kind)
    if not parameters:
        return Request(audio, content_type, accept, headers)
    if content_type:
        raise ImpossibleRequestError(
            "InvalidParameter", "Expected a recording of a media type, or other parameters."
        )
    content = {**parameters, "data": base64.b64encode(audio).decode("ascii")}
    return json_request(content, accept, headers)


def json_request(
    content: Any, accept: str | None = None, headers: Mapping[str, str] | None = None
) -> Request:
    """Return a request with JSON in it."""
    encoded = json.dumps(content, ensure_ascii=False).encode()
    return Request(encoded, JSON, accept, headers or {})


def session_headers(kind: Kind | None) -> dict[str, str]:
    """Return the headers of live speech that begins and ends with one request; others need none.

    Without them a model of live speech keeps a session open for what follows.
    """
    if kind is not Kind.LIVE_SPEECH:
        return {}
    return {
        "ts_request_sequence_id": str(uuid.uuid4()),
        "ts_request_sequence_start": "true",
        "ts_request_sequence_end": "true",
    }


def decode_base64(text: str, place: str) -> bytes:
    """Return bytes; raises `MalformedRequestError` that names the place of what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequestError(
            "InvalidBase64", f"Expected base64 in {place}, got something else."
        ) from None


async def answer_all(
    ask: Callable[[Request], Awaitable[Answer]],
    requests: Sequence[Request | EngineError],
    stop_at_error: bool = False,
) -> list[Answer | EngineError | None]:
    """Return the answer or error of each request, in order, asked for some at a time.

    An error in the place of a request stays. None stands for what was not asked for after an error.
    """
    outcomes: list[Answer | EngineError | None] = [None] * len(requests)
    numbers = iter(range(len(requests)))
    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(requests))):
            group.create_task(_ask_in_turn(ask, requests, numbers, outcomes, stop_at_error))
    return outcomes


async def _ask_in_turn(
    ask: Callable[[Request], Awaitable[Answer]],
    requests: Sequence[Request | EngineError],
    numbers: Iterator[int],
    outcomes: list[Answer | EngineError | None],
    stop_at_error: bool,
) -> None:
    """Ask for the next number until there is none: `numbers` are shared."""
    for number in numbers:
        given = requests[number]
        try:
            outcomes[number] = given if isinstance(given, EngineError) else await ask(given)
        except EngineError as error:
            outcomes[number] = error
            if stop_at_error:
                # Nobody takes a further one; what is asked for already, ends.
                for _ in numbers:
                    pass
