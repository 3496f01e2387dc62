"""Serve the archives with TorchServe on this machine, and try each with one real request."""

import argparse
import functools
import json
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from build_archives import (
    HANDLER_FOLDER,
    MODEL_STORE,
    ROOT,
    ArchiveConfig,
    BuildError,
    build_archive,
    choose_configs,
)
from torchserve_process import (
    ServerError,
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


def start(models: Sequence[str]) -> None:
    """Build what is missing, start the server, wait for its workers and try each model.

    Raises `BuildError` or `ServerError` with one message, and leaves no process behind then.
    """
    running = find_server(SERVER_FOLDER)
    if running:
        print(f"A server is up already at {running.inference_url}; make stop ends it.")
        return
    configs = choose_configs(models)
    archives = [build_archive(config).name for config in configs]
    properties = read_properties()
    report = functools.partial(print, flush=True)
    report("Starting TorchServe ...")
    try:
        start_server(SERVER_FOLDER, MODEL_STORE, archives, properties)
        names = [config.name for config in configs]
        wait_until_ready(SERVER_FOLDER, names, START_TIMEOUT_S, report)
        for config in configs:
            try_example(config, properties["inference_address"])
    except BaseException:
        stop_server(SERVER_FOLDER)
        raise
    log = log_path(SERVER_FOLDER).relative_to(ROOT)
    print(f"\nServing at {properties['inference_address']}; its log is {log}.")
    print("make stop ends it.")


def try_example(config: ArchiveConfig, inference_url: str) -> None:
    """Send the archive's example and print the curl command and the answer.

    Raises `ServerError` for any status but 200.
    """
    content_type = CONTENT_TYPES[config.example.suffix]
    url = f"{inference_url}/predictions/{config.name}"
    example = config.example.relative_to(ROOT)
    print(f"\n$ curl -X POST {url} -H {shlex.quote(f'Content-Type: {content_type}')} -T {example}")
    request = urllib.request.Request(  # noqa: S310
        url, config.example.read_bytes(), {"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310
            print(_in_one_line(response.read().decode("utf-8")), flush=True)
    except urllib.error.HTTPError as error:
        answer = error.read().decode("utf-8")
        raise ServerError(f"{config.name} answered {error.code}: {answer}") from error


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
