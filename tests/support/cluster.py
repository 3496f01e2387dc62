"""A Ray on this machine, as `make cluster` starts it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT
from trials.gateways import free_port

MODELS = ("wav2vec2", "emformer_asr_live", "gpt2_text_generation")
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunningCluster:
    """A running cluster: its address, and the process that holds it."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def run_cluster(model_store: Path, folder: Path) -> Iterator[RunningCluster]:
    """Run a cluster with three of the seven archives while the block runs."""
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "cluster", "up", *MODELS]
    command += ["--model-store", str(model_store), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, log)
        yield RunningCluster(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while "Open http" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.2)
