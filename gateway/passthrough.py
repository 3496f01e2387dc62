"""The contract as it is: /predictions, /explanations and /ping, there and back unchanged."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.engine import Engine, ForwardedRequest, NotFoundError
from gateway.protocol import Protocol
from gateway.request_context import ID_HEADER
from gateway.responses import PartsResponse
from gateway.settings import Settings

ADDRESSES = ("/predictions/", "/explanations/", "/ping")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# What concerns one connection alone: RFC 9110, section 7.6.1, and the names of both ends.
HOP_BY_HOP = {
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    ID_HEADER,
}


# What /docs and /openapi.json say of them; /predictions takes more than is listed.
SUMMARIES = {
    "predictions": "Ask a model",
    "explanations": "Ask what a model's answer depends on",
}
BINARY = {"type": "string", "format": "binary"}
DESCRIBED: dict[str, Any] = {
    "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": BINARY, "response_format": {"type": "string"}},
                }
            },
        },
    },
}
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, in the form that was asked for",
        "content": {"application/json": {}, "text/plain": {}, "text/vtt": {}, "image/png": {}},
    }
}


def build_router(engine: Engine, settings: Settings) -> APIRouter:  # noqa: ARG001
    """Return the routes of the engine's own contract."""
    router = APIRouter(tags=["models"])

    async def forward(request: HttpRequest) -> Response:
        answer = await engine.forward(read_request(request))
        headers = end_to_end(answer.raw_headers)
        return PartsResponse(aiter(answer), answer.aclose, answer.status, headers)

    for api, summary in SUMMARIES.items():
        # What answers. FastAPI's own route, which only describes it, takes twice as long: an empty
        # application 109 microseconds for each request instead of 53, on a Xeon.
        router.add_route(f"/{api}/{{model}}", forward, ["POST"], include_in_schema=False)
        router.add_api_route(
            f"/{api}/{{model}}",
            forward,
            methods=["POST"],
            response_class=Response,
            name=api,
            summary=summary,
            description="The body is a recording, a text or a JSON object. The header `Accept`, or "
            "the field `response_format` beside a recording, chooses the form of the answer.",
            responses=ANSWER,
            openapi_extra=DESCRIBED,
        )
    # Versions, further steps of the path, other methods.
    for path in ("/predictions/{rest:path}", "/explanations/{rest:path}", "/ping"):
        router.add_route(path, forward, METHODS, include_in_schema=False)
    return router


def read_request(request: HttpRequest) -> ForwardedRequest:
    """Return a request for the engine; its body is read as the engine takes it.

    Raises `NotFoundError` for a path with steps up, which might end at another address.
    """
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    segments = unquote(raw_path.decode("latin-1")).replace("\\", "/").split("/")
    if {".", ".."} & set(segments):
        raise NotFoundError("NotFound", "Expected a path without . and .. between its slashes.")
    query: bytes = request.scope["query_string"]
    return ForwardedRequest(
        request.method,
        raw_path + (b"?" + query if query else b""),
        end_to_end(request.headers.items()),
        request.stream() if has_body(request.headers) else None,
    )


def has_body(headers: Headers) -> bool:
    """Tell whether a request has a body: RFC 9112, section 6.3."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def end_to_end(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers without those of the connection alone, with names in lower case."""
    named = [(name.lower(), value) for name, value in headers]
    listed = ",".join(value for name, value in named if name == "connection")
    dropped = HOP_BY_HOP | {each.strip().lower() for each in listed.split(",")}
    return [(name, value) for name, value in named if name not in dropped]


PROTOCOL = Protocol(build_router, open_addresses=("/ping",))
