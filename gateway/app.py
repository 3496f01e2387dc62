"""The application: an engine, the protocols, and what is around every request."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import health, live_speech, passthrough
from gateway.access.installation import install_access, install_observability
from gateway.engine import Engine
from gateway.errors import ErrorShapes
from gateway.kserve import v1 as kserve_v1
from gateway.kserve import v2 as kserve_v2
from gateway.middleware import AnswerMistakes, CancelForGone, CheckBody, HeadAsGet, NameAndLog
from gateway.openai import router as openai
from gateway.page import routes as page
from gateway.protocol import Protocol
from gateway.settings import Settings

# One line for each protocol; the first that has an address answers it.
PROTOCOLS: tuple[Protocol, ...] = (
    passthrough.PROTOCOL,
    health.PROTOCOL,
    live_speech.PROTOCOL,
    openai.PROTOCOL,
    kserve_v1.PROTOCOL,
    kserve_v2.PROTOCOL,
    page.PROTOCOL,
)  # fmt: skip


def _nothing() -> None:
    """Do nothing when the application opens."""


def build_app(settings: Settings, engine: Engine, opened: Callable[[], None] = _nothing) -> FastAPI:
    """Return the application; it closes the engine when it is shut down.

    `opened` is called once the server runs, and so ends in order at a signal.

    Raises `SettingsError` for tokens that cannot be read, or packages that are missing.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        opened()
        yield
        await engine.aclose()
        if traces:
            await asyncio.to_thread(traces.shutdown)

    app = FastAPI(
        title="Speech and text",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # What a path is answered by, its template tells.
        redirect_slashes=False,
    )
    shapes = ErrorShapes(
        {
            prefix: writer
            for protocol in PROTOCOLS
            for prefix, writer in protocol.error_writers.items()
        }
    )
    shapes.install(app)
    for protocol in PROTOCOLS:
        app.include_router(protocol.build_router(engine, settings))
    # The last that is added is the first that sees a request.
    app.add_middleware(
        CheckBody, max_bytes=settings.max_body_bytes, forwarded=passthrough.ADDRESSES
    )
    app.add_middleware(HeadAsGet, forwarded=passthrough.ADDRESSES)
    app.add_middleware(CancelForGone)
    open_addresses = [each for protocol in PROTOCOLS for each in protocol.open_addresses]
    install_access(app, settings, shapes, open_addresses)
    app.add_middleware(AnswerMistakes, shapes=shapes)
    traces = install_observability(app, settings)
    app.add_middleware(NameAndLog)
    return app
