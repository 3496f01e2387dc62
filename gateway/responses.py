"""Answers that are sent in parts, and end the engine's work when their client has gone."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.engine import EngineError, Headers

logger = logging.getLogger(__name__)


class PartsResponse(Response):
    """Sends parts as they come; `close` is called at the end, whatever that is.

    Where the engine is lost on the way, the connection is closed without the end of the body, so
    that the client sees that it has not got all.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        status: int = 200,
        headers: Headers = (),
        media_type: str | None = None,
    ) -> None:
        self._parts = parts
        self._close = close
        self.status_code = status
        self.background: BackgroundTask | None = None
        given = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers
        ]
        if media_type:
            given.append((b"content-type", media_type.encode("latin-1")))
        self.raw_headers = given

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        try:
            await self._send(send)
        except EngineError as error:
            logger.warning("An answer could not be sent to its end: %s", error.kind)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def _send(self, send: Send) -> None:
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
