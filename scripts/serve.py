"""Serve the archives with TorchServe on this machine, and try each with one real request."""

import argparse
import functools
import json
import os
import shlex
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import httpx2

from build_archives import (
    HANDLER_FOLDER,
    MODEL_STORE,
    ROOT,
    ArchiveConfig,
    BuildError,
    build_archive,
    check_disk_space,
    choose_configs,
)
from torchserve_process import (
    CONFIG_FILE,
    ServerError,
    authorization,
    find_server,
    log_path,
    read_properties,
    start_server,
    stop_server,
    wait_until_ready,
)

SERVER_FOLDER = ROOT / ".build" / "server"
CONTENT_TYPES = {".txt": "text/plain", ".json": "application/json", ".wav": "audio/wav"}
START_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
UNPACKED_GROWTH = 2


def start(
    models: Sequence[str], folder: Path = SERVER_FOLDER, config_file: Path = CONFIG_FILE
) -> None:
    """Build what is missing, start the server in `folder`, wait for it and try each model.

    Raises `BuildError` or `ServerError` with one message, and leaves no process behind then.
    """
    running = find_server(folder)
    if running:
        print(f"A server is up already at {running.inference_url}; make stop ends it.")
        return
    configs = choose_configs(models)
    archives = [build_archive(config) for config in configs]
    _check_room_to_unpack(archives)
    properties = read_properties(config_file)
    report = functools.partial(print, flush=True)
    report("Starting TorchServe ...")
    try:
        start_server(folder, MODEL_STORE, [path.name for path in archives], properties)
        names = [config.name for config in configs]
        wait_until_ready(folder, names, START_TIMEOUT_S, report)
        token = authorization(folder, "inference")
        certificate = properties.get("certificate_file")
        for config in configs:
            try_example(config, properties["inference_address"], token, certificate)
    except BaseException:
        stop_server(folder)
        raise
    log = os.path.relpath(log_path(folder))
    print(f"\nServing at {properties['inference_address']}; its log is {log}.")
    for name, value in token.items():
        print(f"Requests need the header {name}: {value}")
    print("make stop ends it.")


def _check_room_to_unpack(archives: Sequence[Path]) -> None:
    """TorchServe unpacks each archive into the temporary folder; its weights hardly shrink."""
    files = (file for archive in archives for file in (archive, *archive.rglob("*")))
    size = sum(file.stat().st_size for file in files if file.is_file())
    check_disk_space(Path(tempfile.gettempdir()), size * UNPACKED_GROWTH)


def try_example(
    config: ArchiveConfig, inference_url: str, token: Mapping[str, str], certificate: str | None
) -> None:
    """Send the archive's example and print the curl command and the answer.

    `token` is the header of a server that asks for one, `certificate` that of a server with TLS.
    Raises `ServerError` for any status but 200.
    """
    content_type = CONTENT_TYPES[config.example.suffix]
    headers = {"Content-Type": content_type, **config.example_headers, **token}
    options = " ".join(f"-H {shlex.quote(f'{key}: {value}')}" for key, value in headers.items())
    trusted = ssl.create_default_context(cafile=certificate)
    if certificate:
        options = f"--cacert {shlex.quote(os.path.relpath(certificate))} {options}"
    url = f"{inference_url}/predictions/{config.name}"
    print(f"\n$ curl -X POST {url} {options} -T {config.example.relative_to(ROOT)}")
    # Not urllib, which writes the names of headers in a case of its own.
    content = config.example.read_bytes()
    reply = httpx2.post(
        url, content=content, headers=headers, timeout=REQUEST_TIMEOUT_S, verify=trusted
    )
    if reply.status_code != HTTPStatus.OK:
        raise ServerError(f"{config.name} answered {reply.status_code}: {reply.text}")
    print(_in_one_line(reply.text), flush=True)


def _in_one_line(answer: str) -> str:
    """Return a JSON answer without TorchServe's indentation, and any other as it is."""
    try:
        return json.dumps(json.loads(answer), ensure_ascii=False)
    except ValueError:
        return answer


def stop() -> None:
    """Stop the server that `start` left running."""
    print("The server is stopped." if stop_server(SERVER_FOLDER) else "No server is running.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="archives to serve; default all")
    options = parser.parse_args(arguments)
    try:
        if options.action == "start":
            start(options.models)
        else:
            stop()
    except (BuildError, ServerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(HANDLER_FOLDER)))
    sys.exit(main())
