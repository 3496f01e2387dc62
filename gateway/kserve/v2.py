"""Protocol v2 of KServe, the Open Inference Protocol, over HTTP: inference_rest.md."""

from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.engine import (
    Answer,
    Engine,
    EngineError,
    Model,
    ModelNotFoundError,
    not_ready,
)
from gateway.kserve.bodies import read_json
from gateway.kserve.errors import name_instance, write_error
from gateway.kserve.inference import (
    HEADER_LENGTH,
    INPUTS,
    OUTPUT,
    build_requests,
    check_outputs,
    write_answers,
)
from gateway.kserve.instances import answer_all
from gateway.kserve.shapes import INFER_REQUEST
from gateway.kserve.tensors import read_tensors, split_body
from gateway.protocol import Protocol
from gateway.settings import Settings

SERVER_NAME = "speech-text-gateway"
# What runs the models behind every engine so far.
PLATFORM = "pytorch"


def build_router(engine: Engine, settings: Settings) -> APIRouter:  # noqa: ARG001
    """Return the routes of protocol v2."""
    router = APIRouter(tags=["KServe v2"])

    # The specification's prose has the first, its OpenAPI document the second.
    @router.get("/v2")
    @router.get("/v2/", include_in_schema=False)
    async def describe_server(request: HttpRequest) -> dict[str, Any]:
        """Tell what this server is."""
        app: FastAPI = request.app
        return {
            "name": SERVER_NAME,
            "version": app.version,
            "extensions": ["binary_tensor_data"],
        }

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Tell that the server runs."""
        await engine.check_alive()
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Tell that all models are ready."""
        models = await engine.models()
        if not models or not all(each.ready for each in models):
            raise not_ready()
        return {"ready": True}

    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        router.add_api_route(prefix, partial(describe, engine), methods=["GET"])
        router.add_api_route(f"{prefix}/ready", partial(model_ready, engine), methods=["GET"])
        router.add_api_route(
            f"{prefix}/infer", partial(infer, engine), methods=["POST"], response_model=None
        )
    return router


async def find(engine: Engine, model: str, version: str | None) -> tuple[Model, bool]:
    """Return a model, and whether the version is ready; raises `ModelNotFoundError`."""
    found = await engine.model(model)
    if version is None:
        return found, found.ready
    for each in found.versions:
        if each.version == version:
            return found, each.ready
    raise ModelNotFoundError("ModelNotFound", "Expected a version of the model that is served.")


async def describe(engine: Engine, model: str, version: str | None = None) -> dict[str, Any]:
    """Tell what a model takes and gives."""
    found, _ = await find(engine, model, version)
    required, optional = INPUTS[found.kind]
    return {
        "name": found.name,
        "versions": [each.version for each in found.versions],
        "platform": PLATFORM,
        "inputs": [_describe_tensor(name) for name in (*required, *optional)],
        "outputs": [_describe_tensor(OUTPUT)],
    }


def _describe_tensor(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [-1]}


async def model_ready(engine: Engine, model: str, version: str | None = None) -> dict[str, Any]:
    """Tell that a model is ready."""
    # As it is now: a model alone is told as it was known.
    await engine.models()
    found, ready = await find(engine, model, version)
    if not ready:
        raise not_ready()
    return {"name": found.name, "ready": True}


async def infer(
    engine: Engine, model: str, request: HttpRequest, version: str | None = None
) -> Response:
    """Answer each element of the inputs; raises the first error, which names its element."""
    content, binary = split_body(await request.body(), request.headers.get(HEADER_LENGTH))
    asked = read_json(INFER_REQUEST, content)
    check_outputs(asked)
    elements = read_tensors(asked, binary)
    found, ready = await find(engine, model, version)
    if found.kind is None and not ready:
        raise not_ready()
    requests = build_requests(asked, elements, found.kind)
    ask = partial(engine.answer, found.name, version=version)
    outcomes = await answer_all(ask, requests, stop_at_error=True)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, EngineError):
            raise name_instance(outcome, number, len(outcomes))
    answers = [each for each in outcomes if isinstance(each, Answer)]
    return write_answers(asked, answers, found.name, version or found.default_version)


PROTOCOL = Protocol(build_router, {"/v2": write_error}, ("/v2/health/*",))
