"""`python -m cluster up --engine process`, as the real process."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from repository import ROOT
from serving.configuration import free_port
from support.common import START_TIMEOUT_S


@dataclass(frozen=True)
class RunningProcess:
    """A process that serves archives at `url`; its log is a file."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def status(self, path: str) -> int:
        """Return the status of an address, 0 where nobody listens."""
        try:
            return httpx2.get(f"{self.url}{path}", timeout=30).status_code
        except httpx2.TransportError:
            return 0

    def wait_for(self, path: str, status: int) -> None:
        """Return when an address has a status."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self.status(path) != status:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, f"{path}: {self.log.read_text()}"
            time.sleep(0.1)


def command_of(*arguments: str) -> list[str]:
    """Return the command line with further arguments."""
    return [sys.executable, "-m", "cluster", "up", "--engine", "process", *arguments]


@contextmanager
def run_process(store: Path, folder: Path, **settings: Any) -> Iterator[RunningProcess]:
    """Serve a model store while the block runs; `settings` are keys of gateway.yaml.

    Its log, its settings and its temporary files are in `folder`.
    """
    port, log = free_port(), folder / "process.log"
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"port": port, **settings}))
    (folder / "temporary").mkdir()
    command = command_of("--model-store", str(store))
    command += ["--gateway-config", str(folder / "gateway.yaml")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["env", f"TMPDIR={folder / 'temporary'}", *command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RunningProcess(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait(30)
