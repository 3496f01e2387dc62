"""A Ray on this machine, as `make cluster` starts it, or Ray's own command with a configuration."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from cluster.own_ray import ENVIRONMENT
from repository import CONFIG_FOLDER, ROOT
from serving.configuration import free_port
from serving.errors import ServerError
from trials.load import wait_for

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunningCluster:
    """A running cluster: its address, and the process that holds it."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def run_cluster(
    store: Path, folder: Path, models: Sequence[str] = (), configs: Path = CONFIG_FOLDER
) -> Iterator[RunningCluster]:
    """Serve archives of a model store with a Ray of its own while the block runs.

    `models` name YAML files of `configs`, none of them stands for all; its log is in `folder`.
    """
    port, log = free_port(), folder / "cluster.log"
    command = [sys.executable, "-m", "cluster", "up", *models, "--port", str(port)]
    command += ["--model-store", str(store), "--configs", str(configs)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, log, lambda: "Open http" in log.read_text() and _listens(port))
        yield RunningCluster(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _wait(process: "subprocess.Popen[bytes]", log: Path, is_ready: Callable[[], bool]) -> None:
    """Return once it is ready; raises `ServerError` with its log where it ends or is late."""
    in_time = wait_for(lambda: process.poll() is not None or is_ready(), START_TIMEOUT_S)
    if not in_time or process.poll() is not None:
        raise ServerError(log.read_text())


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def run_serve(
    config: Mapping[str, Any], folder: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[RunningCluster]:
    """Serve what `python -m cluster config` wrote by Ray's command, on a free port of this machine.

    `environment` is for Ray and all that it starts; the log is in `folder`.
    """
    port, log = free_port(), folder / "serve.log"
    path = folder / "serve.yaml"
    served = {**config, "http_options": {"host": "127.0.0.1", "port": port}}
    path.write_text(yaml.safe_dump(served), encoding="utf-8")
    # Its path has to be short enough for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own:
        ray = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": own, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(path)]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - Ray's own command
                command,
                cwd=ROOT,
                env={**os.environ, **environment, **ray},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, log, lambda: _answers(f"{url}/readyz"))
            yield RunningCluster(url, process, log)
        finally:
            _end(process)


def _answers(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(url, timeout=5).is_success
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started."""
    family = find_family(process)
    for each in family:
        each.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for each in alive:
        each.kill()
    process.wait()


def find_family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return a process and all that it has started, nothing where it has ended."""
    try:
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
