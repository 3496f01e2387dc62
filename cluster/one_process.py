"""The archives of a model store and the gateway in one process: what a container runs.

The gateway answers at once, and says that it is not ready until every archive is loaded.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from fastapi import FastAPI

from cluster.archives import ArchiveError, find_archives, open_archive
from cluster.local import LocalEngine, LocalModels, load_worker
from gateway.app import build_app
from gateway.command import serve
from gateway.settings import Settings


def serve_in_one_process(store: Path, names: Sequence[str], settings: Settings) -> int:
    """Serve archives of a model store until a signal ends it; return the exit status.

    Without `names`, which are those of the files, all of them are served. Raises `ArchiveError` or
    `SettingsError`.
    """
    paths = choose_archives(store, names)
    engine = LocalEngine({}, False, settings.session_answer_timeout_s)
    # Whatever comes of a signal before the server has its own handlers, and after.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="archives-", ignore_cleanup_errors=True) as folder:
        loading = Loading(engine.local, list(paths.values()), Path(folder))
        # A load that fails at once ends the server by a signal: not before there is one.
        app = build_app(settings, engine, opened=loading.start)
        _serve_while_loading(loading, app, settings)
    return _leave(loading, engine.local)


def _serve_while_loading(loading: "Loading", app: FastAPI, settings: Settings) -> None:
    with suppress(KeyboardInterrupt):
        try:
            serve(app, settings)
        except SystemExit:
            # A server that was told to stop before it had started says so by this.
            if not loading.said:
                raise


def _leave(loading: "Loading", models: LocalModels) -> int:
    """Say what was wrong, and return the exit status."""
    status = 1 if loading.said else 0
    if loading.said:
        print(f"error: {loading.said}", file=sys.stderr)
    if loading.is_alive() or models.busy:
        # Neither a load nor a batch that hangs can be ended, and Python would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def choose_archives(store: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """Return archives of a model store by the names of their files; raises `ArchiveError`."""
    if not store.is_dir():
        raise ArchiveError(f"Expected a model store, got no folder {store}.")
    found = find_archives(store)
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise ArchiveError(f"Expected {', '.join(unknown)} in {store}, got {_list(found)}.")
    if not found:
        raise ArchiveError(f"Expected archives in {store}, got none.")
    return {name: found[name] for name in names} if names else found


def _list(names: Mapping[str, Path]) -> str:
    return ", ".join(names) or "no archive"


class Loading(threading.Thread):
    """Loads archives one after the other; a mistake in one of them ends the process.

    `said` is then the sentence that says which.
    """

    def __init__(self, models: LocalModels, paths: Sequence[Path], workspace: Path) -> None:
        super().__init__(name="loading", daemon=True)
        self.said = ""
        self._models = models
        self._paths = paths
        self._workspace = workspace

    def run(self) -> None:
        """Load the archives, and tell of each."""
        try:
            for number, path in enumerate(self._paths):
                with in_a_sentence(path.name):
                    self._load(path, number)
        except ArchiveError as error:
            self.said = str(error)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._models.loaded = True
            print("All models are ready", flush=True)

    def _load(self, path: Path, number: int) -> None:
        archive = open_archive(path, self._workspace)
        with in_a_sentence(archive.name):
            worker = load_worker(archive, choose_gpu(number))
        self._models.add(archive, worker)
        print(f"{archive.name} is ready", flush=True)


@contextmanager
def in_a_sentence(name: str) -> Iterator[None]:
    """Raise whatever is wrong with an archive as `ArchiveError`, with what its handler says."""
    try:
        yield
    except ArchiveError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ArchiveError(f"{name}: {' '.join(said.split())}") from error


def choose_gpu(number: int) -> int | None:
    """Return the GPU of the archive of that number, which share those there are; None without."""
    return number % torch.cuda.device_count() if torch.cuda.is_available() else None
