"""The gateway's application in a thread of its own, and an engine that tells what it is sent."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Event, Thread
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from gateway.app import build_app
from gateway.http_server import HttpServer
from gateway.settings import Settings
from gateway.torchserve.engine import TorchServeEngine
from gateway.websocket_server import WebSocketServer

TIMEOUT_S = 30.0


@dataclass
class ServedGateway:
    """An application that is served: requests to /wait end when `go` is set."""

    app: FastAPI
    port: int = 0
    client: httpx2.Client = field(init=False)
    waiting: Queue[str] = field(default_factory=Queue)
    go: Event = field(default_factory=Event)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """Return the address of its WebSocket, which says everything again."""
        return f"ws://127.0.0.1:{self.port}/again"


@contextmanager
def serve_gateway(settings: Settings, **options: Any) -> Iterator[ServedGateway]:
    """Serve the application of these settings, with two addresses more."""
    served = ServedGateway(build_app(settings, TorchServeEngine(settings)))

    @served.app.get("/wait/{name}")
    async def wait(name: str, request: Request) -> str:
        await request.body()
        served.waiting.put(name)
        await asyncio.to_thread(served.go.wait, TIMEOUT_S)
        return name

    @served.app.websocket("/again")
    async def again(websocket: WebSocket) -> None:
        offered = websocket.scope["subprotocols"]
        await websocket.accept(offered[0] if offered else None)
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    with run_app(served.app, **options) as port:
        served.port = port
        with httpx2.Client(base_url=served.url, timeout=TIMEOUT_S, verify=False) as served.client:
            try:
                yield served
            finally:
                served.go.set()


@contextmanager
def run_app(app: ASGIApp, **options: Any) -> Iterator[int]:
    """Serve an application as the gateway's command does; yield its port.

    `options` are further ones of uvicorn's.
    """
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        access_log=False,
        http=HttpServer,
        ws=WebSocketServer,
        lifespan="on",
        reset_contextvars=True,
        **options,
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def run_listener(answer: Callable[[Any, bytes], bytes]) -> Iterator[str]:
    """Run an HTTP server that answers by the headers and the body of a request; yield its URL."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            content = answer(self.headers, body)
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def say_headers(headers: Any, _: bytes) -> bytes:
    """Return the headers of a request as JSON, with names in lower case."""
    return json.dumps({name.lower(): value for name, value in headers.items()}).encode()
