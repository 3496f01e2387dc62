"""The Ray that a job runs on."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bulk.errors import JobError
from cluster.own_ray import prepare_environment, start_ray

CONNECT_TIMEOUT_S = 10.0


@contextmanager
def ray_session() -> Iterator[TextIO]:
    """Use the Ray at `RAY_ADDRESS`, else one of this process's own, while the block runs.

    Yields what to tell people by: standard error is a file then, as Ray's C++ writes there.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        prepare_environment()
    # Reads its environment when it is imported.
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-") as folder, _quiet(Path(folder)) as stream:
        try:
            if address:
                _join(address)
            else:
                start_ray(Path(folder), os.cpu_count() or 1)
            yield stream
        finally:
            ray.shutdown()


def _join(address: str) -> None:
    import ray

    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        # Ray itself tries for ten minutes, without a word.
        if port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise JobError(f"Expected a Ray at RAY_ADDRESS={address}: {error}") from error


@contextmanager
def _quiet(folder: Path) -> Iterator[TextIO]:
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as stream:
        with (folder / "stderr").open("w") as file:
            os.dup2(file.fileno(), 2)
        try:
            yield stream
        finally:
            os.dup2(stream.fileno(), 2)
