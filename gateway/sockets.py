"""What the protocols of live speech share: who may connect, how a WebSocket is read and ended.

A session has two tasks: one reads what the client sends into an `Inbox`, the other takes it out
and asks the engine. A client that sends faster than the engine recognises is not read for a while.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol, Self, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.encodings import Encoding
from gateway.engine import (
    Engine,
    EngineError,
    ImpossibleRequestError,
    Kind,
    LiveSession,
    Model,
    SessionGoneError,
    SessionIdleError,
    UnauthorizedError,
    UnavailableError,
    not_ready,
)
from gateway.errors import Failure, status_of, write_error
from gateway.inbox import Inbox
from gateway.request_context import request_id

logger = logging.getLogger(__name__)

# How much is read ahead of the engine: ten seconds at 24 kHz.
MOST_WAITING_BYTES = 480_000
# What is longer is audio, which waits for its turn before it is decoded.
LARGE_MESSAGE_BYTES = 65_536
# Pieces for the engine: small ones cost a request each, long ones make text late.
LEAST_PIECE_S, MOST_PIECE_S = 0.1, 0.5
# RFC 6455, section 7.4.1, and IANA's registry. On 1011 to 1013 clients connect again.
NORMAL, GONE, REFUSED, FAILED, TRY_AGAIN = 1000, 1006, 1008, 1011, 1013
# The part of its longest silence after which an engine is told that a session goes on.
KEEP_SHARE, KEEP_S = 1 / 3, 10.0
# OpenAI's, which browsers name beside their token, as they cannot send headers; they give up a
# WebSocket of which none of their subprotocols is chosen.
SUBPROTOCOL = "realtime"
DEFAULT_PORTS = {"http": "80", "https": "443"}

Command = TypeVar("Command")


class SpeechSession(Protocol):
    """A client of a protocol."""

    async def run(self, idle_s: float) -> None:
        """Serve it to its end.

        Raises `WebSocketDisconnect` where it goes, `SessionIdleError` where it sends nothing for so
        many seconds, and other kinds of `EngineError`.
        """

    async def tell_error(self, error: EngineError) -> None:
        """Tell it why its session ends."""


class Places:
    """How many live sessions there are at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    def __enter__(self) -> None:
        """Take a place; raises `UnavailableError` where none is free."""
        if self._taken >= self._most:
            raise UnavailableError(
                "TooManySessions",
                f"Expected at most {self._most} live sessions at a time. Try again later.",
            )
        self._taken += 1

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self._taken -= 1


async def accept(websocket: WebSocket, origins: Sequence[str]) -> bool:
    """Accept a WebSocket, unless a page of another address asks for it."""
    if not is_own_origin(websocket, origins):
        refusal = UnauthorizedError(
            "ForbiddenOrigin", "Expected a page of this address, or one of cors_origins."
        )
        failure = Failure(HTTPStatus.FORBIDDEN, refusal, request_id.get())
        await websocket.send_denial_response(write_error(failure))
        return False
    named = SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None
    await websocket.accept(named)
    return True


def is_own_origin(websocket: WebSocket, allowed: Sequence[str]) -> bool:
    """Tell whether the page that asks is of this address, or one of those that are allowed.

    A browser says where its page is from; other clients say nothing.
    """
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return True
    scheme, _, place = origin.partition("://")
    port = DEFAULT_PORTS.get(scheme)
    host = websocket.headers.get("host", "")
    return port is not None and _place(place, port) == _place(host, port)


def _place(host: str, default_port: str) -> str:
    """Return a host with its port."""
    has_port = host.rpartition("]")[2].rpartition(":")[1]
    return host.lower() if has_port else f"{host.lower()}:{default_port}"


def close_code(error: EngineError) -> int:
    """Return the code that says whether to connect again."""
    if isinstance(error, SessionIdleError):
        return NORMAL
    if isinstance(error, UnavailableError):
        return TRY_AGAIN
    if isinstance(error, SessionGoneError):
        return FAILED
    return REFUSED if status_of(error) < HTTPStatus.INTERNAL_SERVER_ERROR else FAILED


class Reader:
    """Reads a WebSocket, message by message; to use in an `async with` statement."""

    def __init__(self, websocket: WebSocket, inbox: Inbox[Any], idle_s: float) -> None:
        self._websocket = websocket
        self._inbox = inbox
        self._idle_s = idle_s
        self._receiving: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._receiving:
            self._receiving.cancel()

    async def next(self) -> str | bytes:
        """Return the next message; a large one only once the inbox takes audio.

        Raises `WebSocketDisconnect` where the client goes, and `SessionIdleError` where it sends
        nothing for too long.
        """
        receiving = self._receive()
        if not (await asyncio.wait([receiving], timeout=self._idle_s))[0]:
            raise SessionIdleError(
                "SessionIdleTimeout", f"Expected a message within {self._idle_s:g} s, got none."
            )
        self._receiving = None
        content = _read(receiving.result())
        if len(content) > LARGE_MESSAGE_BYTES:
            await self.wait_for_room()
        return content

    async def wait_for_room(self) -> None:
        """Return once the inbox takes audio; raises `WebSocketDisconnect` where the client goes."""
        if not self._inbox.is_full:
            return
        room, receiving = asyncio.create_task(self._inbox.wait_for_room()), self._receive()
        try:
            await asyncio.wait([room, receiving], return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                _read(receiving.result())
            await room
        finally:
            room.cancel()

    def _receive(self) -> "asyncio.Task[Any]":
        """Return the task that waits for the next message."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._websocket.receive())
        return self._receiving


def _read(message: Mapping[str, Any]) -> str | bytes:
    """Return what a message brings; raises `WebSocketDisconnect` for one that says goodbye."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", GONE))
    content: str | bytes = message["text"] if message.get("text") is not None else message["bytes"]
    return content


async def run_first(*works: Coroutine[Any, Any, None]) -> None:
    """Return, or raise, what the first that ends does, and cancel the others."""
    tasks = [asyncio.create_task(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def find_live_model(engine: Engine, name: str) -> Model:
    """Return a model of live speech; raises `EngineError` where there is none of that name."""
    model = await engine.model(name)
    if model.kind is None and not model.ready:
        raise not_ready()
    if model.kind is not Kind.LIVE_SPEECH:
        raise ImpossibleRequestError(
            "ModelNotLive", "Expected the name of a model of live speech, got another's."
        )
    return model


async def find_only_live_model(engine: Engine) -> str | None:
    """Return the name of the only model of live speech, None where there are several, or none."""
    names = [each.name for each in await engine.models() if each.kind is Kind.LIVE_SPEECH]
    return names[0] if len(names) == 1 else None


def keep_seconds(model: Model | None) -> float:
    """Return how long an engine's session of a model may hear nothing before it is told to wait."""
    idle_s = model.about.limits.get("max_idle_seconds") if model else None
    return idle_s * KEEP_SHARE if idle_s else KEEP_S


async def take_next(
    inbox: Inbox[Command], encoding: Encoding, live: LiveSession | None, keep_s: float
) -> bytes | Command:
    """Return the next audio or command; the engine's session is kept open meanwhile.

    Raises `EngineError` where that is lost.
    """
    least, most = (round(encoding.bytes_per_s * each) for each in (LEAST_PIECE_S, MOST_PIECE_S))
    # With many channels at a high rate, no more than is read ahead.
    least = min(least, MOST_WAITING_BYTES)
    while True:
        try:
            async with asyncio.timeout(keep_s):
                return await inbox.take(least, most, encoding.frame_bytes)
        except TimeoutError:
            least = 0
            if live:
                await live.send(b"")


async def end_session(live: LiveSession | None) -> None:
    """End an engine's session, where there is one; raises nothing."""
    if live:
        await live.close()


async def hold(websocket: WebSocket, session: SpeechSession, places: Places, idle_s: float) -> None:
    """Serve a client's session, and say why it ends where the client is not gone."""
    with suppress(WebSocketDisconnect):
        try:
            with places:
                await session.run(idle_s)
        except EngineError as error:
            logger.info("A live session ends: %s", error.kind)
            await session.tell_error(error)
            await websocket.close(close_code(error), error.kind)
        except WebSocketDisconnect:
            raise
        except Exception:
            await websocket.close(FAILED, "InternalError")
            raise
