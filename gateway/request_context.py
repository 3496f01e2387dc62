"""What goes with a request to the engine and into logs: its name, and its client's token."""

import re
import uuid
from contextvars import ContextVar

ID_HEADER = "x-request-id"
# What may stand in a log as it is.
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
request_id: ContextVar[str] = ContextVar("request_id", default="")
# The header Authorization as it came, empty without one.
authorization: ContextVar[str] = ContextVar("authorization", default="")


def choose_id(given: str | None) -> str:
    """Return the client's own name for its request where that is sane, else a new one."""
    return given if given and SANE.fullmatch(given) else uuid.uuid4().hex
