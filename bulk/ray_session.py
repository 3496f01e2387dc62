"""The Ray that a job runs on."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, TextIO

from bulk.errors import JobError
from cluster.own_ray import prepare_environment, start_ray

CONNECT_TIMEOUT_S = 10.0


@contextmanager
def ray_session(worker: Mapping[str, Any]) -> Iterator[TextIO]:
    """Use the Ray at `RAY_ADDRESS`, else one of this process's own, while the block runs.

    Yields what to tell people by: standard error is a file then, as Ray's C++ writes there.
    `worker` are the options of a worker. Raises `JobError` for no Ray at that address, and where
    this machine lacks what a worker takes.
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
                if missing := _find_missing(worker):
                    print(f"Waiting for a node with {missing} for a worker.", file=stream)
            else:
                # A worker with more threads than there are cores shares them.
                cpus = max(os.cpu_count() or 1, ceil(worker.get("num_cpus", 1)))
                start_ray(Path(folder), cpus)
                if missing := _find_missing(worker):
                    raise JobError(f"Expected a machine with {missing} for a worker, not this one.")
            yield stream
        finally:
            ray.shutdown()


def list_needs(worker: Mapping[str, Any]) -> dict[str, float]:
    """Return what a worker with these options takes of a node, by Ray's names for it."""
    needs = {
        "CPU": worker.get("num_cpus", 1),
        "GPU": worker.get("num_gpus", 0),
        "memory": worker.get("memory", 0),
        **worker.get("resources", {}),
    }
    return {name: need for name, need in needs.items() if need}


def _find_missing(worker: Mapping[str, Any]) -> str:
    """Return what a worker takes that no node has, empty where one has it."""
    import ray

    # Ray has no types for it.
    list_nodes: Any = ray.nodes
    there = [node["Resources"] for node in list_nodes() if node["Alive"]]
    needs = list_needs(worker)
    if any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in there):
        return ""
    return ", ".join(f"{need:g} {name}" for name, need in needs.items())


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
