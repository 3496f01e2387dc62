"""A server that speaks TorchServe's APIs and says what no handler of ours would say."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

Reply = Callable[[BaseHTTPRequestHandler, bytes], Any]


@dataclass
class OddServer:
    """What it serves: descriptions by model, and answers by path."""

    models: Mapping[str, Mapping[str, Any]]
    replies: Mapping[str, Reply]
    address: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def describe(self, path: str) -> Any:
        """Return what the management API says at a path."""
        if path.startswith("/models?"):
            return {"models": [{"modelName": name} for name in self.models]}
        name = unquote(path.partition("?")[0].split("/")[2])
        worker = {"id": "1", "startTime": "today", "status": "READY"}
        state = {"modelName": name, "modelVersion": "1.0", "workers": [worker]}
        return [state | {"customizedMetadata": self.models[name]}]


@contextmanager
def run_odd_server(
    models: Mapping[str, Mapping[str, Any]], replies: Mapping[str, Reply]
) -> Iterator[OddServer]:
    """Run such a server: a reply returns JSON to send, or writes by itself and returns None."""
    odd = OddServer(models, replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(odd.describe(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = unquote(self.path)
            odd.asked.append((path, {key.lower(): value for key, value in self.headers.items()}))
            content = odd.replies[path](self, body)
            if content is not None:
                self.reply(content, content.get("code", 200) if isinstance(content, dict) else 200)

        def reply(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        odd.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield odd
        finally:
            server.shutdown()
            thread.join()


def endless_story(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Send a token every now and then, until nobody listens."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.end_headers()
    index = 0
    while True:
        index += 1
        token = {"id": 1, "text": " and", "logprob": 0.0, "special": False}
        event = {"index": index, "token": token, "generated_text": None, "details": None}
        try:
            handler.wfile.write(f"data:{json.dumps(event)}\n\n".encode())
        except OSError:
            return
        time.sleep(0.02)
