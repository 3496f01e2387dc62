"""The address of OpenAI's Realtime protocol: `/v1/realtime`."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from gateway.engine import Engine
from gateway.realtime.session import Session
from gateway.settings import Settings
from gateway.sockets import Places, accept, hold


def add_realtime(router: APIRouter, engine: Engine, settings: Settings, places: Places) -> None:
    """Add the route of the protocol."""

    @router.websocket("/v1/realtime")
    async def transcribe(websocket: WebSocket) -> None:
        if await accept(websocket, settings.cors_origins):
            model = websocket.query_params.get("model") or settings.live_model
            session = Session(engine, websocket, model)
            await hold(websocket, session, places, settings.session_idle_timeout_s)
