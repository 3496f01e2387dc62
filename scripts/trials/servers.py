"""A server of one's own to put to the test, with the seven archives, and its workers' memory."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from archives.building import build_archive
from archives.own_configs import demo_configs
from repository import MODEL_STORE
from serving.configuration import LOG_CONFIG, free_properties
from serving.errors import ServerError
from serving.status import START_TIMEOUT_S, read_workers, wait_until_ready
from serving.torchserve import (
    ServerRecord,
    find_server,
    server_processes,
    start_server,
    stop_server,
)

# How long a trial server has to end before it is killed.
END_TIMEOUT_S = 0.2


@dataclass(frozen=True)
class TrialServer:
    """A running server; `address` is its inference API."""

    folder: Path
    store: Path
    archives: Sequence[Path]
    properties: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port of the inference API."""
        return "127.0.0.1", urlsplit(self.properties["inference_address"]).port or 0

    @property
    def record(self) -> ServerRecord:
        """Return the server that runs in the folder, which a restart replaces."""
        record = find_server(self.folder)
        if record is None:
            raise ServerError("The server has ended.")
        return record

    def processes(self) -> list[psutil.Process]:
        """Return the server's own process and those of its workers."""
        return server_processes(self.record)

    def workers(self) -> dict[str, psutil.Process]:
        """Return the process of each model's worker, of those that live."""
        record = self.record
        alive = {process.pid: process for process in self.processes()}
        found = {path.stem: read_workers(self.folder, record, path.stem) for path in self.archives}
        return {
            name: alive[worker.pid]
            for name, workers in found.items()
            for worker in workers or []
            if worker.pid in alive
        }

    def resident_bytes(self) -> dict[str, int]:
        """Return the resident memory of each worker."""
        return {name: worker.memory_info().rss for name, worker in self.workers().items()}


@contextmanager
def run_server(
    report: Callable[[str], None] = print,
    archives: Sequence[Path] | None = None,
    store: Path = MODEL_STORE,
    changes: Mapping[str, str] | None = None,
    prepare: Callable[[Path], None] | None = None,
    log_config: Path = LOG_CONFIG,
) -> Iterator[TrialServer]:
    """Build what is missing, start a server on free ports in a new folder, and stop it afterwards.

    `archives` are served instead of the seven; `changes` are keys of config.properties; `prepare`
    is given the folder before the server is.
    """
    built = archives or [build_archive(config, store) for config in demo_configs().values()]
    properties = free_properties() | dict(changes or {})
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        folder = Path(name)
        try:
            if prepare:
                prepare(folder)
            start_archives(folder, store, built, properties, report, log_config)
            yield TrialServer(folder, store, built, properties)
        finally:
            # Nobody asks any more.
            stop_server(folder, end_timeout_s=END_TIMEOUT_S)


def start_archives(
    folder: Path,
    store: Path,
    archives: Sequence[Path],
    properties: Mapping[str, str],
    report: Callable[[str], None],
    log_config: Path = LOG_CONFIG,
) -> None:
    """Start a server in `folder`, and wait until each of its archives is served."""
    start_server(folder, store, [path.name for path in archives], properties, log_config)
    wait_until_ready(folder, [path.stem for path in archives], START_TIMEOUT_S, report)
