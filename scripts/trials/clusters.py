"""A Ray on this machine, as `make cluster` starts it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repository import CONFIG_FOLDER, ROOT
from serving.errors import ServerError
from trials.gateways import free_port

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
        _wait(process, log, port)
        yield RunningCluster(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _wait(process: "subprocess.Popen[bytes]", log: Path, port: int) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while "Open http" not in log.read_text() or not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise ServerError(log.read_text())
        time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
