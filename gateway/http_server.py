"""uvicorn's HTTP server, with limits on the size of headers and on how long they may take.

Its own options bound neither: h11_max_incomplete_event_size is for h11 alone, and
timeout_keep_alive counts from the first answer.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.engine import EngineError, RequestTooLargeError
from gateway.errors import describe_error

# The most bytes of a request line with headers, and of chunk sizes and trailers.
MOST_HEADER_BYTES = 65_536


def write_refusal(status: HTTPStatus, error: EngineError) -> bytes:
    """Return the last answer of a connection on which no application is asked."""
    content = json.dumps(describe_error(error, status)).encode()
    return (
        b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b"
    ) % (status, status.phrase.encode(), len(content), content)


_TOO_LARGE = write_refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    RequestTooLargeError(
        "HeadersTooLarge", f"Expected headers of at most {MOST_HEADER_BYTES} bytes, got more."
    ),
)


class HttpServer(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = MOST_HEADER_BYTES
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over a connection."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection that has ended."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, as far as there is room for it."""
        while data and self._is_open:
            part, data = data[: self._room], data[self._room :]
            self._room -= len(part)
            super().data_received(part)
            if not self._room:
                self._refuse()
        self._await_request()

    def on_headers_complete(self) -> None:
        """Begin with a request."""
        self._stop_waiting()
        self._room = MOST_HEADER_BYTES
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of a body, which the application counts."""
        # Clients that still send a body that was answered early are to read that answer.
        self._stop_waiting()
        self._room = MOST_HEADER_BYTES
        super().on_body(body)

    @property
    def _is_open(self) -> bool:
        """Tell whether the connection is this server's: one of WebSockets is another's."""
        return self in self.connections and not self.transport.is_closing()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_request(self) -> None:
        """Give a client without a request the time of a kept connection, whatever it sends."""
        waits = self._deadline or self.timeout_keep_alive_task
        if self._is_open and not self._is_answering and not waits:
            self._deadline = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        """End a connection that sends too much; an answer that has begun is cut off."""
        if self._is_open and not self._is_answering:
            self.transport.write(_TOO_LARGE)
        self.transport.close()
