"""Which addresses are open to everybody, and how requests to the others are refused."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from starlette.types import Receive, Scope, Send

from gateway.engine import EngineError
from gateway.errors import ErrorShapes


class AccessPolicy:
    """The open addresses, in which `*` stands for any characters, and the shapes of refusals."""

    def __init__(self, shapes: ErrorShapes, open_addresses: Sequence[str]) -> None:
        self._shapes = shapes
        self._open = tuple(open_addresses)

    def guards(self, scope: Scope) -> bool:
        """Tell whether a request has to pass: a WebSocket always, others unless they are open."""
        if scope["type"] == "http":
            return not any(fnmatchcase(scope["path"], each) for each in self._open)
        return bool(scope["type"] == "websocket")

    async def refuse(
        self,
        error: EngineError,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with an error in the shape of the address; a WebSocket is not opened."""
        response = self._shapes.respond(scope["path"], error)
        response.headers.update(headers or {})
        await response(scope, receive, send)
