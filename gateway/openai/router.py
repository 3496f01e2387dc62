"""The addresses of OpenAI's protocol."""

from fastapi import APIRouter

from gateway.engine import Engine
from gateway.openai import completions, models, transcriptions
from gateway.openai.errors import write_error
from gateway.protocol import Protocol
from gateway.settings import Settings

PREFIXES = ("/v1/audio", "/v1/completions", "/v1/models")


def build_router(engine: Engine, settings: Settings) -> APIRouter:  # noqa: ARG001
    """Return the routes below /v1."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    for module in (transcriptions, completions, models):
        router.include_router(module.build_router(engine))
    return router


PROTOCOL = Protocol(build_router, dict.fromkeys(PREFIXES, write_error))
