"""Requests as they go over the wire, broken ones too, and what came of each.

By hand over a socket: no client library sends a message that is broken, or a target as it is.
"""

import http.client
import socket
import time
from dataclasses import dataclass
from typing import NamedTuple

REFUSED, LOST = "refused", "lost"


@dataclass(frozen=True)
class Request:
    """An HTTP request; `raw` is what is sent instead where the message itself is broken."""

    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    raw: bytes | None = None

    def encode(self) -> bytes:
        """Return the bytes of the message."""
        if self.raw is not None:
            return self.raw
        named = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not named & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + self.body


class Outcome(NamedTuple):
    """What came of a request: a status and a body, or how it failed without one.

    `failure` is `REFUSED` where the connection was, so that nothing was sent, and `LOST` where no
    status came back.
    """

    status: int | None
    body: bytes
    duration_s: float
    failure: str = ""
    content_type: str = ""
    retry_after_s: float | None = None


class Client:
    """A connection to a server, made when it is needed and kept while the server keeps it."""

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def send(self, request: Request) -> Outcome:
        """Send a request and wait for its answer."""
        started_s = time.monotonic()
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, self._timeout_s)
        except OSError:
            return Outcome(None, b"", time.monotonic() - started_s, REFUSED)
        try:
            return self._exchange(self._socket, request, started_s)
        except (OSError, http.client.HTTPException):
            self.close()
            return Outcome(None, b"", time.monotonic() - started_s, LOST)

    def _exchange(self, connection: socket.socket, request: Request, started_s: float) -> Outcome:
        # A server may answer and close before it has read everything.
        unread = False
        try:
            connection.sendall(request.encode())
        except (BrokenPipeError, ConnectionResetError):
            unread = True
        response = http.client.HTTPResponse(connection, method=request.method)
        try:
            response.begin()
            body = response.read()
        finally:
            response.close()
        if unread or response.will_close:
            self.close()
        retry_after = response.headers.get("Retry-After")
        return Outcome(
            response.status,
            body,
            time.monotonic() - started_s,
            content_type=response.headers.get("Content-Type", ""),
            retry_after_s=float(retry_after) if retry_after else None,
        )


def send_alone(address: tuple[str, int], request: Request, timeout_s: float) -> Outcome:
    """Send a request over a connection of its own."""
    client = Client(address, timeout_s)
    try:
        return client.send(request)
    finally:
        client.close()
