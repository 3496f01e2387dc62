"""Archives in this process, as an engine: no server, no further process."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.archive_imports import ArchiveImports
from cluster.archives import Archive, ArchiveError, BatchLimits, find_archives, open_archive
from cluster.front_end import FrontEnd, full_queue
from cluster.measures import choose_measure
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.serve_config import read_keys
from cluster.served_model import ServedModel, describe
from cluster.worker import ArchiveWorker, NoMetrics, load_service
from gateway.contract.descriptions import read_description
from gateway.contract.engine import ContractEngine
from gateway.engine import (
    LOADING_S,
    Description,
    Model,
    ModelNotFoundError,
    ModelVersion,
    UnavailableError,
)
from gateway.settings import Settings


def load_worker(archive: Archive, gpu_id: int | None = None) -> ArchiveWorker:
    """Return a worker of an archive whose modules are its own, beside those of other archives."""
    imports = ArchiveImports(archive.folder)
    with imports.in_place():
        service = load_service(archive, gpu_id, NoMetrics())
    return ArchiveWorker(service, imports.in_place)


@dataclass(frozen=True)
class _Local:
    """An archive that is served, and how many requests may wait for it."""

    archive: Archive
    served: ServedModel
    most_waiting: int

    @property
    def hangs(self) -> bool:
        """Tell whether a batch takes longer than `responseTimeout`."""
        return self.served.busy_s > self.archive.response_timeout_s


def _serve(archive: Archive, worker: ArchiveWorker) -> _Local:
    """Return an archive as it is served, by the section `cluster` of its YAML too."""
    keys = read_keys(archive.name, archive.keys)
    served = ServedModel(worker, archive.batch_limits)
    if keys.max_batch_work is not None:
        limits = replace(archive.batch_limits, most_work=keys.max_batch_work)
        served = ServedModel(worker, limits, choose_measure(archive))
    return _Local(archive, served, keys.max_queued_requests)


class LocalModels:
    """Archives of a model store, loaded one after the other; of one event loop.

    Until `loaded` is set, more of them may be added.
    """

    def __init__(self, workers: Mapping[Archive, ArchiveWorker], loaded: bool = True) -> None:
        self.loaded = loaded
        self._local: dict[str, _Local] = {}
        self._known: dict[str, Description] = {}
        for archive, worker in workers.items():
            self.add(archive, worker)

    def add(self, archive: Archive, worker: ArchiveWorker) -> None:
        """Serve an archive; any thread may call this.

        Raises `ArchiveError` for a second one of its name, or a section `cluster` that is wrong.
        """
        if archive.name in self._local:
            raise ArchiveError(f"{archive.name}: expected one archive of that name, got two.")
        self._local[archive.name] = _serve(archive, worker)

    def batch_limits(self, name: str) -> BatchLimits:
        """Return how the batches of a model are bounded."""
        return self._local[name].served.limits

    @property
    def hanging(self) -> list[str]:
        """Return the models of which a batch takes longer than it may."""
        return [name for name, local in list(self._local.items()) if local.hangs]

    @property
    def busy(self) -> bool:
        """Tell whether a batch runs."""
        return any(local.served.busy_s for local in list(self._local.values()))

    async def models(self) -> list[Model]:
        """Return the models there are, by name; raises `UnavailableError` until all are loaded."""
        if not self.loaded:
            raise _loading()
        return [await self.model(name) for name in sorted(self._local)]

    async def model(self, name: str) -> Model:
        """Return one of them; raises `ModelNotFoundError`."""
        if name not in self._local:
            if not self.loaded:
                raise _loading()
            raise ModelNotFoundError("ModelNotFound", "Expected a model that is served.")
        local = self._local[name]
        if name not in self._known:
            self._known[name] = read_description(await describe(local.served))
        version, ready = local.archive.version, not local.hangs
        return Model(name, (ModelVersion(version, ready),), version, ready, self._known[name])

    async def answer(self, model: str, request: WorkerRequest) -> WorkerAnswer:
        """Return an answer whole; raises `RefusalError` where too many requests wait."""
        return await self._with_place(model).answer(request)

    async def stream(self, model: str, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of an answer; raises `RefusalError` where too many requests wait."""
        async with aclosing(self._with_place(model).stream(request)) as parts:
            async for part in parts:
                yield part

    async def aclose(self) -> None:
        """End the batches."""
        for local in self._local.values():
            await local.served.aclose()

    def _with_place(self, model: str) -> ServedModel:
        local = self._local[model]
        if local.served.waiting >= local.most_waiting:
            raise full_queue()
        return local.served


def _loading() -> UnavailableError:
    return UnavailableError("NotReady", "Expected models that are loaded; wait.", LOADING_S)


class LocalEngine(ContractEngine):
    """The archives of a model store in this process; `local` takes more until it is `loaded`."""

    def __init__(
        self,
        workers: Mapping[Archive, ArchiveWorker],
        loaded: bool = True,
        session_answer_timeout_s: float = Settings.session_answer_timeout_s,
    ) -> None:
        self.local = LocalModels(workers, loaded)
        super().__init__(FrontEnd(self.local), self.local, session_answer_timeout_s)

    async def check_alive(self) -> None:
        """Return where batches end in time; else only a new process can answer."""
        if hanging := self.local.hanging:
            raise UnavailableError(
                "ModelHangs", f"Expected batches that end in time, got {', '.join(hanging)}."
            )


def load_store(store: Path, workspace: Path) -> dict[Archive, ArchiveWorker]:
    """Return the loaded archives of a model store, unpacked below `workspace`."""
    archives = [open_archive(path, workspace) for path in find_archives(store).values()]
    return {archive: load_worker(archive) for archive in archives}
