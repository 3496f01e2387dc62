"""From a form to the form that the engine takes, without the recording in memory as a whole."""

import uuid
from collections.abc import AsyncIterator, Mapping

from starlette.datastructures import UploadFile

from gateway.engine import Request

# What is read of the recording at a time.
BLOCK_BYTES = 262_144
# Fields of a form, and bytes of each but the recording, which waits in a temporary file.
# A field may be half a minute of somebody's voice in base64.
MAX_FIELDS, MAX_FIELD_BYTES = 300, 4 * 1024 * 1024


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
