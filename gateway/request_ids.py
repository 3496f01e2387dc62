"""The name of the request that is being answered, for headers, for the engine and for logs."""

import re
import uuid
from contextvars import ContextVar

HEADER = "x-request-id"
# What may stand in a log as it is.
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
current: ContextVar[str] = ContextVar("request_id", default="")


def choose(given: str | None) -> str:
    """Return the client's own name for its request where that is sane, else a new one."""
    return given if given and SANE.fullmatch(given) else uuid.uuid4().hex
