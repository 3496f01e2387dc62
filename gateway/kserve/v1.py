"""Protocol v1 of KServe: `:predict` and `:explain`, a list of instances there and of answers back.

`GET /v1/models` and `GET /v1/models/{model}` are where OpenAI's protocol has them, too.
"""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gateway.engine import (
    Answer,
    Engine,
    EngineError,
    InternalError,
    Kind,
    MalformedRequestError,
    Request,
)
from gateway.errors import describe_error, status_of
from gateway.kserve.bodies import read_json
from gateway.kserve.errors import name_instance, write_error
from gateway.kserve.instances import (
    AUDIO,
    JSON,
    answer_all,
    check_count,
    decode_base64,
    json_request,
    session_headers,
    speech_request,
    text_request,
)
from gateway.kserve.shapes import PREDICT_REQUEST
from gateway.protocol import Protocol
from gateway.settings import Settings

B64 = "b64"


def build_router(engine: Engine, settings: Settings) -> APIRouter:  # noqa: ARG001
    """Return the routes of protocol v1."""
    router = APIRouter(tags=["KServe v1"])

    @router.post("/v1/models/{model}:predict", response_model=None)
    async def predict(model: str, request: HttpRequest) -> Response:
        """Answer each instance."""
        ask = partial(engine.answer, model)
        return await respond(engine, model, request, ask, "predictions")

    @router.post("/v1/models/{model}:explain", response_model=None)
    async def explain(model: str, request: HttpRequest) -> Response:
        """Explain the answer to each instance."""
        ask = partial(engine.explain, model)
        return await respond(engine, model, request, ask, "explanations")

    return router


async def respond(
    engine: Engine,
    model: str,
    request: HttpRequest,
    ask: Callable[[Request], Awaitable[Answer]],
    field: str,
) -> Response:
    """Return the answers of a request in one field; raises the first error where all are bad."""
    instances = read_json(PREDICT_REQUEST, await request.body()).instances
    check_count(len(instances))
    kind = (await engine.model(model)).kind
    requests = [read_instance(each, kind, i) for i, each in enumerate(instances)]
    outcomes = await answer_all(ask, requests)
    first = outcomes[0]
    if isinstance(first, EngineError) and all(isinstance(each, EngineError) for each in outcomes):
        raise name_instance(first, 0, len(outcomes))
    return JSONResponse({field: [write_outcome(each) for each in outcomes]})


def read_instance(instance: Any, kind: Kind | None, number: int) -> Request | EngineError:
    """Return the request of an instance, or why it is none."""
    place = f"instances.{number}"
    try:
        if isinstance(instance, Mapping):
            return _read_object(instance, kind, place)
        if not isinstance(instance, str):
            return json_request(instance, headers=session_headers(kind))
        if kind in AUDIO:
            return MalformedRequestError(
                "InvalidInstance", f'{place}: expected a recording as {{"b64": ...}}, got a string.'
            )
        if kind is None:
            return Request(instance.encode(), "text/plain; charset=utf-8")
        return text_request({"text": instance}, {})
    except EngineError as error:
        return error


def _read_object(instance: Mapping[str, Any], kind: Kind | None, place: str) -> Request:
    """Return the request of an object: bytes in base64, or what the handlers take as JSON."""
    if list(instance) != [B64]:
        parameters = instance.get("parameters")
        asked = parameters if isinstance(parameters, Mapping) else {}
        text_request({}, {"stream": instance.get("stream") or asked.get("stream")})
        return json_request(instance, headers=session_headers(kind))
    encoded = instance[B64]
    if not isinstance(encoded, str):
        raise MalformedRequestError(
            "InvalidInstance", f"{place}.{B64}: expected a string, got something else."
        )
    return speech_request(kind, decode_base64(encoded, f"{place}.{B64}"), {})


def write_outcome(outcome: Answer | EngineError | None) -> Any:
    """Return an answer as part of JSON: what it says in JSON, a text, or bytes in base64."""
    if isinstance(outcome, EngineError):
        return {"error": describe_error(outcome, status_of(outcome).value)}
    if outcome is None:
        raise InternalError("InternalError", "Expected an answer to each instance.")
    if outcome.media_type == JSON:
        return json.loads(outcome.body)
    try:
        return outcome.body.decode()
    except UnicodeDecodeError:
        return {B64: b64encode(outcome.body).decode()}


PROTOCOL = Protocol(
    build_router,
    {"/v1/models/*:predict": write_error, "/v1/models/*:explain": write_error},
)
