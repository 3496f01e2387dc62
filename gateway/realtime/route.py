"""The address of OpenAI's Realtime protocol: `/v1/realtime`."""

import json

from fastapi import APIRouter
from starlette.websockets import WebSocket

from gateway.engine import Engine, Kind
from gateway.realtime.events import Event
from gateway.realtime.session import Session
from gateway.settings import Settings
from gateway.sockets import Places, accept, hold, run_first

# What browsers name beside their key, as they cannot send headers.
SUBPROTOCOL = "realtime"


def add_realtime(router: APIRouter, engine: Engine, settings: Settings, places: Places) -> None:
    """Add the route of the protocol."""
    idle_s = settings.session_idle_timeout_s

    @router.websocket("/v1/realtime")
    async def transcribe(websocket: WebSocket) -> None:
        if not await accept(websocket, settings.cors_origins, SUBPROTOCOL):
            return

        async def send(event: Event) -> None:
            # ASCII: a client's own words that come back in it may be no UTF-8.
            await websocket.send_text(json.dumps(event))

        session = Session(engine, send)

        async def work() -> None:
            with places:
                named = websocket.query_params.get("model")
                await session.begin(named or await choose_model(engine, settings))
                await run_first(session.read(websocket, idle_s), session.recognize())

        await hold(websocket, work(), session.tell, session.tell_error, idle_s)


async def choose_model(engine: Engine, settings: Settings) -> str | None:
    """Return the model for who names none, None where there are several to choose from."""
    if settings.live_model:
        return settings.live_model
    names = [each.name for each in await engine.models() if each.kind is Kind.LIVE_SPEECH]
    return names[0] if len(names) == 1 else None
