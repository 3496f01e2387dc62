"""The doors of an application, by its settings."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.doors.limits import LimitClients
from gateway.doors.metrics import METRICS_ADDRESS, add_metrics
from gateway.doors.refusals import Doorkeeper
from gateway.doors.tokens import CheckToken, Tokens
from gateway.doors.traces import Traces, add_traces
from gateway.errors import ErrorShapes
from gateway.settings import Settings

# Headers of answers that a page of another address may read.
EXPOSED = (
    "x-request-id",
    "retry-after",
    "x-should-retry",
    "x-truncated-tokens",
    "inference-header-content-length",
)


def install_inner_doors(
    app: FastAPI, settings: Settings, shapes: ErrorShapes, open_addresses: Sequence[str]
) -> None:
    """Add those whose own mistakes are answered: tokens, and then limits.

    Raises `SettingsError` for a file of tokens that cannot be read.
    """
    metrics = (METRICS_ADDRESS,) if settings.open_metrics else ()
    keeper = Doorkeeper(shapes, (*open_addresses, *metrics))
    app.add_middleware(LimitClients, limits=settings.limits, keeper=keeper)
    if settings.tokens_file:
        app.add_middleware(CheckToken, tokens=Tokens(settings.tokens_file), keeper=keeper)


def install_outer_doors(app: FastAPI, settings: Settings) -> Traces | None:
    """Add those that see every answer, refusals too: origins, metrics, traces.

    Raises `SettingsError` where the packages of traces are missing. The caller closes the traces.
    """
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    add_metrics(app)
    return add_traces(app) if settings.traces else None
