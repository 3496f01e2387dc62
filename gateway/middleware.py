"""What happens around every request: its name and log line, its limits, and clients that go."""

import asyncio
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.engine import RequestTooLargeError, UnsupportedMediaError
from gateway.errors import ErrorShapes, as_engine_error, log_mistake
from gateway.request_context import (
    ID_HEADER,
    authorization,
    choose_id,
    read_authorization,
    request_id,
)

access_log = logging.getLogger("gateway.access")

# Nobody gets it: the client went before there was an answer. nginx's number for that.
CLIENT_GONE = 499
LOGGED_PATH_CHARACTERS = 200
CODING = "content-encoding"
# The messages that begin an answer: the last one refuses a WebSocket.
STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class NameAndLog:
    """Gives each request its name, and writes a line when it has its answer, without content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = choose_id(headers.get(ID_HEADER))
        # Each request has a task, and so a context, of its own.
        request_id.set(name)
        authorization.set(read_authorization(HTTPConnection(scope)))
        started_s, status = time.monotonic(), CLIENT_GONE

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] in STARTS:
                status = message.get("status", 101)
                MutableHeaders(scope=message)[ID_HEADER] = name
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            spent_ms = (time.monotonic() - started_s) * 1000
            access_log.info(
                "%s %s %d %.1f ms %s",
                scope.get("method", "WEBSOCKET"), logged_path(scope), status, spent_ms, name,
            )  # fmt: skip


def logged_path(scope: Scope) -> str:
    """Return the path as it came, percent-encoded, without its query, and not for ever."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    text = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    shown = "".join(each if each.isprintable() and each != " " else "?" for each in text)
    return shown[:LOGGED_PATH_CHARACTERS]


class AnswerMistakes:
    """Answers a request over which the gateway made a mistake, and logs where, without values."""

    def __init__(self, app: ASGIApp, shapes: ErrorShapes) -> None:
        self._app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            log_mistake(error)
            if scope["type"] != "http" or started:
                return
            response = self._shapes.respond(scope["path"], as_engine_error(error))
            await response(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET, whose body the server leaves out: RFC 9110, section 9.3.2.

    Not at the addresses `forwarded`, which the engine answers.
    """

    def __init__(self, app: ASGIApp, forwarded: tuple[str, ...]) -> None:
        self._app = app
        self._forwarded = forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        own = scope["type"] == "http" and not scope["path"].startswith(self._forwarded)
        if own and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class CancelForGone:
    """Cancels the work for a client that went, once its body is read; that reaches the engine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(receive, send, asyncio.current_task())
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            if not watch.cancelled:
                raise
            watch.forgive()
        except ClientDisconnect:
            # In the middle of its body; whoever read that has ended with it.
            return
        finally:
            watch.stop()


class _Watch:
    """Listens for the client's going from the end of its body to the end of its answer."""

    def __init__(self, receive: Receive, send: Send, task: "asyncio.Task[None] | None") -> None:
        self._receive, self._send, self._task = receive, send, task
        self._gone = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._answered = False
        self.cancelled = False

    async def receive(self) -> Message:
        if self._listener:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._listener = asyncio.create_task(self._listen())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._answered = True
        await self._send(message)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if self._task and not self._answered:
            self.cancelled = True
            self._task.cancel()

    def forgive(self) -> None:
        if self._task:
            self._task.uncancel()

    def stop(self) -> None:
        if self._listener:
            self._listener.cancel()


class CheckBody:
    """Raises an error to whoever reads a body that is longer than allowed, or encoded.

    What is encoded goes through at the addresses `forwarded`, whose bodies the engine reads.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, forwarded: tuple[str, ...]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._forwarded = forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        coding = "" if scope["path"].startswith(self._forwarded) else headers.get(CODING, "")
        await self._app(scope, self._checked(receive, declared, coding), send)

    def _checked(self, receive: Receive, declared: str, coding: str) -> Receive:
        received = int(declared) if declared.isdecimal() else 0
        counted = 0

        async def receive_checked() -> Message:
            nonlocal counted
            _check_coding(coding)
            self._check_size(received)
            message = await receive()
            counted += len(message.get("body", b""))
            self._check_size(counted)
            return message

        return receive_checked

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestTooLargeError(
                "RequestTooLarge",
                f"Expected a body of at most {self._max_bytes} bytes, got a longer one.",
            )


def _check_coding(coding: str) -> None:
    """Raise for a body that would have to be decoded first: RFC 9110, section 8.4."""
    if coding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaError(
            "UnsupportedMediaType", "Expected a body without Content-Encoding, got an encoded one."
        )
