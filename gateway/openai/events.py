"""Answers in parts: server-sent events, of the engine's lines and as OpenAI's clients read them."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.engine import AnswerStream, EngineError, InternalError, UnavailableError
from gateway.openai.errors import error_content

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
# Nothing between here and the client waits for more of the answer.
EVENT_HEADERS = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
DONE = b"data: [DONE]\n\n"
PREFIX = b"data:"


async def read_lines(answer: AnswerStream) -> AsyncIterator[Any]:
    """Yield the objects of an answer in parts: JSON lines, or events with JSON in them.

    Raises `InternalError` where the engine ends it with an error.
    """
    rest = b""
    async for part in answer:
        *lines, rest = (rest + part).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield _read_line(line)
    if rest.strip():
        yield _read_line(rest)


def _read_line(line: bytes) -> Any:
    try:
        content = json.loads(line.removeprefix(PREFIX))
    except ValueError as error:
        raise cut_short() from error
    if {"code", "type", "message"} <= set(content):
        raise InternalError(str(content["type"]), str(content["message"]))
    return content


def cut_short() -> UnavailableError:
    """Return the error of an answer that ends before its last part."""
    return UnavailableError("EngineLost", "Expected the engine's whole answer, got a part of it.")


async def write_events(events: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    """Yield events as they are sent, the end too: an error's event, where one ends the stream."""
    try:
        async for event in events:
            yield write_event(event)
    except EngineError as error:
        logger.warning("An answer could not be sent to its end: %s", error.kind)
        yield write_event(error_content(error))
    else:
        yield DONE


def write_event(content: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
