"""The models there are, at addresses that OpenAI's protocol and KServe's have in common."""

import time
from typing import Any

from fastapi import APIRouter

from gateway.engine import Engine, Kind, Model
from gateway.openai.fields import refusal

OWNER = "speechtext"


def build_router(engine: Engine) -> APIRouter:
    """Return the routes below /models."""
    router = APIRouter()
    # OpenAI tells when a model was made, which no engine knows.
    started = int(time.time())

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        """Return all models: OpenAI's `data`, and the names that KServe's clients expect."""
        models = await engine.models()
        described = [describe_model(each, started) for each in models]
        return {"object": "list", "data": described, "models": [each.name for each in models]}

    @router.get("/models/{model}")
    async def get_model(model: str) -> dict[str, Any]:
        """Return a model, in OpenAI's and KServe's shape."""
        # Readiness as it is now: a model alone is told as it was known.
        await engine.models()
        return describe_model(await engine.model(model), started)

    return router


def describe_model(model: Model, created: int) -> dict[str, Any]:
    """Return a model: `name` and `ready` are KServe's."""
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "name": model.name,
        "ready": model.ready,
    }


async def find_model(engine: Engine, name: str, kind: Kind) -> Model:
    """Return a model of a kind, or one that does not say what it is: the engine will tell.

    Raises `EngineError`, where there is none or it is of another kind.
    """
    model = await engine.model(name)
    if model.kind not in (kind, None):
        raise refusal("model", f"one of {_words(kind)}", f"one of {_words(model.kind)}")
    return model


def _words(kind: Kind | None) -> str:
    return "another kind" if kind is None else kind.value.replace("_", " ")
