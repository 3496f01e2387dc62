"""What goes with a request to the engine and into logs: its name, its client, its trace."""

import re
import uuid
from contextvars import ContextVar

from starlette.requests import HTTPConnection

ID_HEADER = "x-request-id"
# What may stand in a log as it is.
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
request_id: ContextVar[str] = ContextVar("request_id", default="")
# The header Authorization as it came, empty without one.
authorization: ContextVar[str] = ContextVar("authorization", default="")
# The client that the token belongs to, where the gateway has tokens of its own.
client_name: ContextVar[str] = ContextVar("client_name", default="")
# The headers that continue a trace.
trace_headers: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("trace_headers", default=())
# Browsers cannot set headers of a WebSocket; OpenAI's client has the token among the subprotocols.
TOKEN_PROTOCOL = "openai-insecure-api-key."  # noqa: S105 - a name


def choose_id(given: str | None) -> str:
    """Return the client's own name for its request where that is sane, else a new one."""
    return given if given and SANE.fullmatch(given) else uuid.uuid4().hex


def read_authorization(connection: HTTPConnection) -> str:
    """Return the header Authorization, or what stands for it among a WebSocket's subprotocols."""
    named = connection.headers.get("authorization", "")
    for each in connection.scope.get("subprotocols") or ():
        if not named and each.startswith(TOKEN_PROTOCOL):
            return f"Bearer {each.removeprefix(TOKEN_PROTOCOL)}"
    return named
