"""A server of one's own to put to the test, with the seven archives, and its workers' memory."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from build_archives import MODEL_STORE, build_archive, read_configs
from torchserve_process import (
    ServerRecord,
    free_properties,
    log_path,
    server_processes,
    start_server,
    stop_server,
    wait_until_ready,
)

START_TIMEOUT_S = 300.0
WORKER = "model_service_worker.py"
# What the front end logs when it starts a worker.
PID = re.compile(r"W-[0-9]+-(\S+)_[^_ ]+-stdout MODEL_LOG - \[PID\]([0-9]+)")


@dataclass(frozen=True)
class TrialServer:
    """A running server; `address` is its inference API."""

    folder: Path
    record: ServerRecord
    properties: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port of the inference API."""
        return "127.0.0.1", urlsplit(self.properties["inference_address"]).port or 0

    def workers(self) -> dict[str, psutil.Process]:
        """Return the process of each model's worker, the last of each."""
        alive = {process.pid: process for process in server_processes(self.record)}
        log = log_path(self.folder).read_text(encoding="utf-8", errors="replace")
        found = {name: int(pid) for name, pid in PID.findall(log)}
        return {name: alive[pid] for name, pid in found.items() if pid in alive}

    def resident_bytes(self) -> dict[str, int]:
        """Return the resident memory of each worker."""
        return {name: worker.memory_info().rss for name, worker in self.workers().items()}


@contextmanager
def run_server(
    report: Callable[[str], None] = print,
    archives: Sequence[Path] | None = None,
    store: Path = MODEL_STORE,
    **changes: str,
) -> Iterator[TrialServer]:
    """Build what is missing, start a server on free ports in a new folder, and stop it afterwards.

    `archives` are served instead of the seven; `changes` are keys of config.properties.
    """
    built = archives or [build_archive(config, store) for config in read_configs().values()]
    properties = free_properties() | changes
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        folder = Path(name)
        try:
            record = start_server(folder, store, [path.name for path in built], properties)
            wait_until_ready(folder, [path.stem for path in built], START_TIMEOUT_S, report)
            yield TrialServer(folder, record, properties)
        finally:
            stop_server(folder)
