"""A Hugging Face hub of one model, which can go away."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

from huggingface_hub import close_session, constants

MODEL = "some/model"
COMMIT = "a" * 40


@dataclass
class Hub:
    """What it has, by name, which of these it fails to give, and what it was asked for."""

    files: Mapping[str, bytes]
    broken: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return the status and the content of what is at a path."""
        if path.startswith("/api/"):
            return 200, json.dumps(self.describe(path)).encode()
        name = path.partition(f"/{COMMIT}/")[2]
        if name in self.broken:
            return 403, b""
        self.asked.add(name)
        return (200, self.files[name]) if name in self.files else (404, b"")

    def describe(self, path: str) -> Any:
        """Return what its API says of the model, or of its files."""
        if "/tree/" not in path:
            return {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.files]}
        return [
            {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
            for name, content in self.files.items()
        ]


def digest(content: bytes) -> str:
    """Return the name of a content."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def run_hub(hub: Hub, cache: Path) -> Iterator[None]:
    """Let Hugging Face's client ask such a hub while the block runs, and keep files in `cache`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(hub))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with use_cache(cache, f"http://127.0.0.1:{server.server_port}"):
            yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def use_cache(cache: Path, endpoint: str = "http://127.0.0.1:9") -> Iterator[None]:
    """Let Hugging Face's client use a cache of its own, and a hub that is away where none is."""
    settings: dict[str, Any] = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
    }
    with patch.multiple(constants, **settings), patch.dict("os.environ", no_proxy="127.0.0.1"):
        # The client that is kept knows the proxies of before.
        close_session()
        try:
            yield
        finally:
            close_session()


def _handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, content = hub.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", digest(content))
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
