"""Installs what the settings ask for before and around a protocol's answers."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.access.limits import LimitClients
from gateway.access.metrics import METRICS_ADDRESS, add_metrics
from gateway.access.refusals import AccessPolicy
from gateway.access.tokens import CheckToken, Tokens
from gateway.access.traces import Traces, add_traces
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


def install_access(
    app: FastAPI, settings: Settings, shapes: ErrorShapes, open_addresses: Sequence[str]
) -> None:
    """Check tokens, then limits, before a protocol answers.

    Raises `SettingsError` for a file of tokens that cannot be read.
    """
    metrics = (METRICS_ADDRESS,) if settings.open_metrics else ()
    policy = AccessPolicy(shapes, (*open_addresses, *metrics))
    app.add_middleware(LimitClients, limits=settings.limits, policy=policy)
    if settings.tokens_file:
        app.add_middleware(CheckToken, tokens=Tokens(settings.tokens_file), policy=policy)


def install_observability(app: FastAPI, settings: Settings) -> Traces | None:
    """Add what sees every answer, refusals too: CORS, metrics, traces.

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
