"""The application: an engine, the protocols, and what is around every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import health, live_speech, passthrough
from gateway.engine import Engine
from gateway.errors import ErrorShapes
from gateway.middleware import AnswerMistakes, CancelForGone, LimitBody, NameAndLog
from gateway.page import routes as page
from gateway.protocol import Protocol
from gateway.settings import Settings

# One line for each protocol; the first that has an address answers it.
PROTOCOLS: tuple[Protocol, ...] = (
    passthrough.PROTOCOL,
    health.PROTOCOL,
    live_speech.PROTOCOL,
    page.PROTOCOL,
)  # fmt: skip


def build_app(settings: Settings, engine: Engine) -> FastAPI:
    """Return the application; it closes the engine when it is shut down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        await engine.aclose()

    app = FastAPI(title="Speech and text", lifespan=lifespan, docs_url=None, redoc_url=None)
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
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(CancelForGone)
    app.add_middleware(AnswerMistakes, shapes=shapes)
    app.add_middleware(NameAndLog)
    return app
