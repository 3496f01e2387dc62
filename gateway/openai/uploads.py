"""From a form to the form that the engine takes, without the recording in memory as a whole."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

from gateway.engine import Request, UnsupportedMediaError
from gateway.openai.fields import missing

# What is read of the recording at a time.
BLOCK_BYTES = 262_144
# Fields of a form, and bytes of each but the recording, which waits in a temporary file.
# A field may be half a minute of somebody's voice in base64.
MAX_FIELDS, MAX_FIELD_BYTES = 300, 4 * 1024 * 1024

FORM = b"multipart/form-data"
# How its fields may be written. The parser would take any codec that Python has, and one of those
# needs the square of a text's length in time. RFC 7578, section 5.1.2, has UTF-8 alone.
CHARSETS = {b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1"}


@asynccontextmanager
async def open_form(http: HttpRequest) -> AsyncIterator[FormData]:
    """Read a form, whose recording waits in a temporary file; close it in the end.

    Raises `HTTPException` for one that cannot be read, and `EngineError`.
    """
    media_type, options = parse_options_header(http.headers.get("content-type"))
    if media_type != FORM:
        raise missing("file")
    if options.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise UnsupportedMediaError(
            "UnsupportedMediaType", "Expected a form in UTF-8, got one with another charset."
        )
    try:
        form = await _FormParser(http).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        yield form
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Starlette's, which would leave out the last field of a form that ends too early."""

    def __init__(self, http: HttpRequest) -> None:
        super().__init__(
            http.headers,
            self._read(http),
            max_files=1,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        self._ended = False

    def on_end(self) -> None:
        """Note the last boundary: RFC 2046, section 5.1.1."""
        self._ended = True

    async def _read(self, http: HttpRequest) -> AsyncGenerator[bytes]:
        async for part in http.stream():
            yield part
        if not self._ended:
            raise MultiPartException("Its last boundary is missing.")


def build_request(recording: UploadFile, fields: Mapping[str, str], accept: str) -> Request:
    """Return a request for the transcript of a recording, which is read while it is sent."""
    boundary = uuid.uuid4().hex
    head = "".join(_begin_part(boundary, name) + value + "\r\n" for name, value in fields.items())
    head += _begin_part(boundary, "file", '; filename="recording"\r\nContent-Type: '
                        "application/octet-stream")  # fmt: skip
    start, end = head.encode(), f"\r\n--{boundary}--\r\n".encode()
    length = len(start) + (recording.size or 0) + len(end)

    async def body() -> AsyncIterator[bytes]:
        yield start
        while block := await recording.read(BLOCK_BYTES):
            yield block
        yield end

    content_type = f"multipart/form-data; boundary={boundary}"
    return Request(body(), content_type, accept, {"content-length": str(length)})


def _begin_part(boundary: str, name: str, rest: str = "") -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'
