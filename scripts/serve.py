"""Serve the archives with TorchServe on this machine, and try each with one real request."""

import argparse
import sys
from collections.abc import Sequence

from archives.errors import BuildError
from repository import SERVER_FOLDER
from serving.archives_server import serve_archives, stop_serving
from serving.errors import ServerError
from serving.gateway import find_gateway
from serving.torchserve import find_server

INTERRUPTED = 130  # as a shell tells it


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="archives to serve; default all")
    options = parser.parse_args(arguments)
    try:
        return _run(options.action, options.models)
    except (BuildError, ServerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(action: str, models: Sequence[str]) -> int:
    try:
        if action == "start":
            serve_archives(models, SERVER_FOLDER)
        else:
            stopped = stop_serving(SERVER_FOLDER)
            print("The server is stopped." if stopped else "No server is running.")
    except KeyboardInterrupt:
        left = find_server(SERVER_FOLDER) or find_gateway(SERVER_FOLDER)
        said = "make stop ends what is running" if left else "nothing is left running"
        print(f"interrupted; {said}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
