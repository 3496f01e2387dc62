"""The protocols of live speech, which share the places for sessions."""

from fastapi import APIRouter

from gateway.engine import Engine
from gateway.live import add_live
from gateway.protocol import Protocol
from gateway.realtime.route import add_realtime
from gateway.settings import Settings
from gateway.sockets import Places


def build_router(engine: Engine, settings: Settings) -> APIRouter:
    """Return the routes of live speech."""
    router, places = APIRouter(), Places(settings.max_sessions)
    add_realtime(router, engine, settings, places)
    add_live(router, engine, settings, places)
    return router


PROTOCOL = Protocol(build_router)
