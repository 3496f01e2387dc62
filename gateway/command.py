"""Serve the protocols that clients already speak, in front of TorchServe."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from gateway.app import build_app
from gateway.http_server import HttpServer
from gateway.settings import CONFIG_FILE, Settings, SettingsError, read_settings
from gateway.torchserve.engine import TorchServeEngine
from gateway.websocket_server import WebSocketServer

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# How long a connection without a request, or with a part of its headers, is kept.
IDLE_CONNECTION_S = 75
# 15 MiB of base64, which is the most that OpenAI's clients append at a time, and what is around it.
MOST_MESSAGE_BYTES = 16 * 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; return the exit status."""
    try:
        settings = read_options(arguments)
        app = build_app(settings, TorchServeEngine(settings))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    serve(app, settings)
    return 0


def read_options(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings of a file with those of the command line over them."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG_FILE, metavar="FILE")
    parser.add_argument("--host", help="address to listen at")
    parser.add_argument("--port", type=int, help="port to listen at")
    for name in ("inference_address", "management_address", "certificate_file", "key_file"):
        parser.add_argument(
            f"--torchserve-{name.replace('_', '-')}",
            dest=f"torchserve.{name}",
            metavar="URL" if name.endswith("address") else "FILE",
            type=str if name.endswith("address") else _absolute,
        )
    given = vars(parser.parse_args(arguments))
    path = given.pop("config")
    return read_settings(path, {name: value for name, value in given.items() if value is not None})


def _absolute(path: str) -> str:
    """Return a path of the command line, which is relative to where it was typed."""
    return str(Path(path).resolve())


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends it, and then let what runs come to its end."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stdout)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        # Its own access log has query strings in it.
        access_log=False,
        server_header=False,
        # Else what one request notes of itself may reach the next of its connection.
        reset_contextvars=True,
        http=HttpServer,
        ws=WebSocketServer,
        ws_max_size=MOST_MESSAGE_BYTES,
        # Pings keep connections open. Nobody waits for their answers, which come behind audio that
        # is not read yet; who sends nothing is found by session_idle_timeout_s.
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
        ssl_certfile=settings.certificate_file,
        ssl_keyfile=settings.private_key_file,
    )
