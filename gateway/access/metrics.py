"""Prometheus metrics: requests and their times by route, and what is in work."""

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.middleware import CLIENT_GONE

METRICS_ADDRESS = "/metrics"


class CountWork:
    """Counts what is in work, and tells the metrics about clients that went before the answer."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._gauges = {
            "http": Gauge(
                "http_requests_in_progress", "Requests that are in work.", registry=registry
            ),
            "websocket": Gauge("live_sessions", "WebSockets that are open.", registry=registry),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if scope["type"] not in self._gauges:
            await self._app(scope, receive, send)
            return
        answered = False

        async def send_noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        with self._gauges[scope["type"]].track_inprogress():
            await self._app(scope, receive, send_noted)
        if scope["type"] == "http" and not answered:
            # Nobody gets it.
            start = {"type": "http.response.start", "status": CLIENT_GONE, "headers": []}
            await send(start)
            await send({"type": "http.response.body"})


def add_metrics(app: FastAPI) -> None:
    """Measure an application's requests, and add the address that tells.

    Their labels are methods, statuses and the templates of routes: nothing that clients choose.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app.add_middleware(CountWork, registry=registry)
    instrumentator = Instrumentator(should_group_status_codes=False, registry=registry)
    instrumentator.instrument(app).expose(
        app, endpoint=METRICS_ADDRESS, include_in_schema=False, response_model=None
    )
