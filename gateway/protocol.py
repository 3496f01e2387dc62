"""What a module of a protocol offers to the application."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter

from gateway.engine import Engine
from gateway.errors import ErrorWriter
from gateway.settings import Settings


@dataclass(frozen=True)
class Protocol:
    """A protocol: its routes, and who writes the errors below which prefixes of paths.

    Without a writer errors have the shape of TorchServe's own. `open_addresses` need no token and
    count for no limit.
    """

    build_router: Callable[[Engine, Settings], APIRouter]
    error_writers: Mapping[str, ErrorWriter] = field(default_factory=dict)
    open_addresses: Sequence[str] = ()
