"""Live speech as it is: samples in, and JSON of the shape of docs/live.md out; `/live/{model}`."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket

from gateway.encodings import Codec, Encoding
from gateway.engine import Engine, EngineError, ImpossibleRequestError, MalformedRequestError
from gateway.errors import describe_error, status_of
from gateway.inbox import Inbox
from gateway.settings import Settings
from gateway.sockets import (
    MOST_WAITING_BYTES,
    NORMAL,
    Places,
    Reader,
    accept,
    end_session,
    find_live_model,
    hold,
    keep_seconds,
    run_first,
    take_next,
)

PARAMETERS = {"rate", "channels", "encoding"}
DEFAULT_RATE_HZ = 16_000
# What handlers take.
LEAST_RATE_HZ, MOST_RATE_HZ, MOST_CHANNELS = 4_000, 384_000, 8
END = {"type": "end"}
# However its spaces are set.
MOST_END_CHARACTERS = 100


def add_live(router: APIRouter, engine: Engine, settings: Settings, places: Places) -> None:
    """Add the route of the protocol."""
    idle_s = settings.session_idle_timeout_s

    @router.websocket("/live/{model}")
    async def transcribe(websocket: WebSocket, model: str) -> None:
        if await accept(websocket, settings.cors_origins):
            await hold(websocket, LiveSocket(engine, websocket, model), places, idle_s)


class LiveSocket:
    """One client's session: each message is a piece of audio, but the last, which ends it."""

    def __init__(self, engine: Engine, websocket: WebSocket, model: str) -> None:
        self._engine = engine
        self._websocket = websocket
        self._name = model
        self._inbox: Inbox[None] = Inbox(MOST_WAITING_BYTES)

    async def run(self, idle_s: float) -> None:
        """Answer pieces until the last; raises `EngineError`."""
        encoding = read_encoding(self._websocket.query_params)
        await run_first(self._read(idle_s), self._recognize(encoding))

    async def _read(self, idle_s: float) -> None:
        async with Reader(self._websocket, self._inbox, idle_s) as reader:
            while True:
                await self._receive(reader)

    async def _receive(self, reader: Reader) -> None:
        # A message may be large: it is not kept while the next one is awaited.
        message = await reader.next()
        if isinstance(message, bytes):
            await reader.wait_for_room()
            self._inbox.put_audio(message)
        elif is_end(message):
            await reader.wait_for_room()
            self._inbox.put_command(None, len(message))
        else:
            raise MalformedRequestError(
                "InvalidMessage", 'Expected audio in binary messages, or the text {"type": "end"}.'
            )

    async def _recognize(self, encoding: Encoding) -> None:
        model = await find_live_model(self._engine, self._name)
        live = await self._engine.open_live(self._name, encoding.engine_format)
        keep_s = keep_seconds(model)
        try:
            while True:
                audio = await take_next(self._inbox, encoding, live, keep_s)
                said = await live.send(encoding.expand(audio or b""), last=audio is None)
                await self._websocket.send_json(said)
                if audio is None:
                    await self._websocket.close(NORMAL)
                    return
        finally:
            await end_session(live)

    async def tell_error(self, error: EngineError) -> None:
        """Tell the client why its session ends."""
        await self._websocket.send_json({"error": describe_error(error, status_of(error).value)})


def is_end(message: str) -> bool:
    """Tell whether a text message ends a session."""
    if len(message) > MOST_END_CHARACTERS:
        return False
    with suppress(ValueError, RecursionError):
        return bool(json.loads(message) == END)
    return False


def read_encoding(query: Mapping[str, Any]) -> Encoding:
    """Return how a client's audio is to be read; raises `ImpossibleRequestError`."""
    if not query.keys() <= PARAMETERS:
        raise ImpossibleRequestError(
            "InvalidParameter", f"Expected a query of {', '.join(sorted(PARAMETERS))}, got others."
        )
    name = query.get("encoding", Codec.PCM)
    if name not in set(Codec):
        raise ImpossibleRequestError(
            "InvalidParameter", f"Expected encoding to be one of {', '.join(Codec)}."
        )
    rate_hz = _whole(query, "rate", DEFAULT_RATE_HZ, LEAST_RATE_HZ, MOST_RATE_HZ)
    return Encoding(Codec(name), rate_hz, _whole(query, "channels", 1, 1, MOST_CHANNELS))


def _whole(query: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    text = str(query.get(name, default))
    # Python reads no number of thousands of digits.
    if text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise ImpossibleRequestError(
        "InvalidParameter", f"Expected {name} to be a whole number from {least} to {most}."
    )
