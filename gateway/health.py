"""Whether the gateway runs, and whether what it stands before is ready: for probes."""

from typing import Any

from fastapi import APIRouter

from gateway.engine import LOADING_S, Engine, UnavailableError
from gateway.protocol import Protocol
from gateway.settings import Settings


def build_router(engine: Engine, settings: Settings) -> APIRouter:  # noqa: ARG001
    """Return the routes that probes ask."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def live() -> dict[str, Any]:
        """Tell that the gateway runs, and an engine within it, whether models are ready or not."""
        await engine.check_alive()
        return {"status": "alive"}

    @router.get("/readyz")
    async def ready() -> dict[str, Any]:
        """Tell that each model has a worker that answers."""
        models = await engine.models()
        waiting = [each.name for each in models if not each.ready]
        if waiting or not models:
            raise UnavailableError(
                "NotReady", f"Expected models that are ready, got {waiting or 'none'}.", LOADING_S
            )
        return {"status": "ready", "models": [each.name for each in models]}

    return router


PROTOCOL = Protocol(build_router, open_addresses=("/livez", "/readyz"))
