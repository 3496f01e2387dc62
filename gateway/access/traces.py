"""OpenTelemetry traces: a span for each request, in the trace of its client and of the engine.

Environment variables say where spans go: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and
the others of OpenTelemetry's specification.
"""

from typing import Any, Protocol

from fastapi import FastAPI
from prometheus_fastapi_instrumentator.routing import get_route_name
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.request_context import trace_headers
from gateway.settings import SettingsError

SERVICE_NAME = "speech-text-gateway"
# What a span is made from; other headers stay out of it.
KEPT_HEADERS = (b"traceparent", b"tracestate", b"host")
WHOLE_SCOPE = "gateway.whole_scope"


class Traces(Protocol):
    """What sends spans."""

    def shutdown(self) -> None:
        """Send those that wait; it may take some seconds."""


class KeepContent:
    """Shows what makes spans a request without its query and its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [each for each in scope["headers"] if each[0] in KEPT_HEADERS]
        shown = {**scope, "query_string": b"", "headers": headers, WHOLE_SCOPE: scope}
        await self._app(shown, receive, send)


class PassOn:
    """Gives the request back what spans do not see, and notes the headers of its trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if WHOLE_SCOPE in scope:
            from opentelemetry.propagate import inject

            carrier: dict[str, str] = {}
            inject(carrier)
            trace_headers.set(tuple(carrier.items()))
        await self._app(scope.get(WHOLE_SCOPE, scope), receive, send)


def add_traces(app: FastAPI) -> Traces:
    """Trace an application's requests; raises `SettingsError` without the extra telemetry."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"traces: expected the extra telemetry, got no {error.name}; "
            "make telemetry installs it."
        ) from error
    named = Resource({"service.name": SERVICE_NAME}).merge(Resource.create())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    app.add_middleware(PassOn)
    app.add_middleware(
        OpenTelemetryMiddleware,
        tracer_provider=provider,
        default_span_details=describe_route,
        exclude_spans=["receive", "send"],
    )
    app.add_middleware(KeepContent)
    traces: Traces = provider
    return traces


def describe_route(scope: Scope) -> tuple[str, dict[str, Any]]:
    """Return the name of a span, by the template of the route, and its attributes."""
    route = get_route_name(HTTPConnection(scope), should_include_root_path=False)
    method = scope.get("method", "WEBSOCKET")
    return (f"{method} {route}", {"http.route": route}) if route else (method, {})
