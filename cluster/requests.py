"""Requests as TorchServe's front end gives them to a worker, and what the worker answers."""

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

MULTIPART, URL_ENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
JSON = "application/json"
# How a worker says whether parts follow.
STREAM_HEADER = "ts_stream_next"


@dataclass(frozen=True)
class WorkerRequest:
    """A request to a model as it came; names of headers as the client wrote them."""

    headers: Sequence[tuple[str, str]]
    body: bytes

    @property
    def content_type(self) -> str:
        """Return the header `Content-Type`, empty without one."""
        found = (value for name, value in self.headers if name.lower() == "content-type")
        return next(found, "")


@dataclass(frozen=True)
class WorkerAnswer:
    """What a worker says of a request: an answer, or a part of it that others follow.

    `refusal` says in which words where the worker could not answer at all.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    more: bool = False
    refusal: str = ""


def join_parts(parts: Sequence[WorkerAnswer]) -> WorkerAnswer:
    """Return an answer as a whole, of its parts in their order, of which there is at least one.

    The first has its status and headers, the last says whether it was broken off.
    """
    body = b"".join(part.body for part in parts)
    return WorkerAnswer(parts[0].status, parts[0].headers, body, refusal=parts[-1].refusal)


def as_message(request: WorkerRequest, name: str) -> dict[str, Any]:
    """Return a request as TorchServe's `Service.predict` takes it, under a name of its batch.

    Headers are ISO 8859-1, RFC 9110, section 5.5, and are passed on in UTF-8, as by its front end.
    """
    headers = [{"name": name.encode(), "value": value.encode()} for name, value in request.headers]
    return {
        "requestId": name.encode(),
        "headers": headers,
        "parameters": list(read_parameters(request.content_type, request.body)),
    }


def read_parameters(content_type: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the fields of a form, or the one field `body`, with values as a worker gets them.

    A form that cannot be read has no fields: the handler says what it misses.
    """
    media_type, options = parse_options_header(content_type)
    media_type = media_type.lower()
    if media_type == URL_ENCODED:
        for name, value in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
            yield _parameter(name, "", value.encode())
    elif media_type == MULTIPART and options.get("boundary"):
        with suppress(ValueError):
            yield from _read_multipart(options["boundary"], body)
    else:
        yield _parameter("body", media_type, body)


def _read_multipart(boundary: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the parts of a form in their order: of those with one name the last counts."""
    decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), max_form_memory_size=None)
    decoder.receive_data(body)
    decoder.receive_data(None)
    name, media_type, value = "", "", bytearray()
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, Field | File):
            name, media_type, value = event.name, "", bytearray()
            if isinstance(event, File):
                media_type, _ = parse_options_header(event.headers.get("content-type"))
        elif isinstance(event, Data):
            value += event.data
            if not event.more_data:
                yield _parameter(name, media_type, value)


def _parameter(name: str, media_type: str, value: bytes | bytearray) -> dict[str, Any]:
    decoded: Any = bytearray(value)
    # What cannot be decoded, for example as it is too deep, goes on as it is.
    with suppress(Exception):
        if media_type == JSON:
            decoded = json.loads(value.decode())
        elif media_type.startswith("text"):
            decoded = value.decode()
    return {"name": name, "contentType": media_type, "value": decoded}


def read_answers(message: bytes) -> Iterator[tuple[str, WorkerAnswer]]:
    """Yield the answers of a worker's message by the names of their requests.

    The message is what `ts.protocol.otf_message_handler.create_predict_response` writes: numbers of
    four bytes, texts and bytes behind their lengths, and -1 at the end.
    """
    stream = BytesIO(message)
    code, said = _number(stream), _text(stream)
    while (length := _number(stream)) >= 0:
        name = stream.read(length).decode()
        content_type, status, _ = _text(stream), _number(stream), _text(stream)
        headers = dict(_headers(stream))
        more = headers.pop(STREAM_HEADER, "") == "true"
        # The front end sets it first, and the worker's own after it.
        headers = ({"content-type": content_type} if content_type else {}) | headers
        body = stream.read(_number(stream))
        refusal = "" if code == 200 else said
        yield name, WorkerAnswer(status, list(headers.items()), body, more, refusal)


def read_failure(message: bytes) -> WorkerAnswer | None:
    """Return what a worker's message says of a whole batch that failed, None where it did not."""
    stream = BytesIO(message)
    code, said = _number(stream), _text(stream)
    return None if code == 200 else WorkerAnswer(code, (), b"", refusal=said)


def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    for _ in range(_number(stream)):
        yield _text(stream), _text(stream)


def _text(stream: BinaryIO) -> str:
    return stream.read(_number(stream)).decode()


def _number(stream: BinaryIO) -> int:
    (number,) = struct.unpack("!i", stream.read(4))
    return int(number)
