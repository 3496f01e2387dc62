"""The page at /, the description of the API at /docs, and the files that they are made of.

No file comes from another address, and the headers forbid it. The page's own policy allows no
inline script or style and no HTML out of strings: browsers that know Trusted Types refuse it.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from gateway.engine import Engine
from gateway.errors import unknown_address
from gateway.page.shapes import PageModel, PageModels
from gateway.protocol import Protocol
from gateway.settings import Settings

PAGE_FILES = StaticFiles(directory=Path(__file__).parent / "static")
# Swagger UI (Apache-2.0), as the package fastapi-offline (MIT) carries it.
SWAGGER_FILES = StaticFiles(directory=str(files("fastapi_offline") / "static"))
SWAGGER_NAMES = {"swagger-ui-bundle.js", "swagger-ui.css"}

SHARED_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' blob: data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
PAGE_POLICY = SHARED_POLICY | {
    "media-src": "blob:",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
# Swagger UI writes style attributes.
DOCS_POLICY = SHARED_POLICY | {"style-src": "'self' 'unsafe-inline'"}
SHARED_HEADERS = {
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def build_router(engine: Engine, settings: Settings) -> APIRouter:
    """Return the routes of the page."""
    router = APIRouter()
    _add_files(router)

    @router.get("/page/models.json", tags=["page"])
    async def models() -> PageModels:
        """Tell which models there are, and what each can do."""
        found = [PageModel.of(each) for each in await engine.models()]
        return PageModels(found, settings.max_body_bytes)

    return router


def _add_files(router: APIRouter) -> None:
    async def page(request: HttpRequest) -> Response:
        return await _send(PAGE_FILES, "index.html", request, PAGE_POLICY)

    async def docs(request: HttpRequest) -> Response:
        return await _send(PAGE_FILES, "docs.html", request, DOCS_POLICY)

    async def page_file(request: HttpRequest, name: str) -> Response:
        return await _send(PAGE_FILES, name, request, PAGE_POLICY)

    async def swagger_file(request: HttpRequest, name: str) -> Response:
        if name not in SWAGGER_NAMES:
            raise unknown_address()
        return await _send(SWAGGER_FILES, name, request, DOCS_POLICY)

    endpoints: Mapping[str, Callable[..., Awaitable[Response]]] = {
        "/": page,
        "/docs": docs,
        "/page/files/{name}": page_file,
        "/page/swagger/{name}": swagger_file,
    }
    for path, endpoint in endpoints.items():
        router.add_api_route(
            path, endpoint, methods=["GET", "HEAD"], include_in_schema=False, response_model=None
        )


async def _send(
    folder: StaticFiles, name: str, request: HttpRequest, policy: Mapping[str, str]
) -> Response:
    """Return a file with its policy; raises `HTTPException` where there is none of that name."""
    response = await folder.get_response(name, request.scope)
    response.headers.update(SHARED_HEADERS)
    response.headers["content-security-policy"] = "; ".join(
        f"{name} {value}" for name, value in policy.items()
    )
    return response


# None of them tells anything of the models; what the page asks for needs its token.
OPEN_ADDRESSES = ("/", "/docs", "/openapi.json", "/page/files/*", "/page/swagger/*")
PROTOCOL = Protocol(build_router, open_addresses=OPEN_ADDRESSES)
