"""Archives in this process, as an engine: no server, no further process."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

from cluster.archive_imports import ArchiveImports
from cluster.archives import Archive, find_archives, open_archive
from cluster.front_end import FrontEnd
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.served_model import ServedModel, describe
from cluster.worker import ArchiveWorker, NoMetrics, load_service
from gateway.contract.descriptions import read_description
from gateway.contract.engine import ContractEngine
from gateway.engine import Model, ModelNotFoundError, ModelVersion


def load_worker(archive: Archive, gpu_id: int | None = None) -> ArchiveWorker:
    """Return a worker of an archive whose modules are its own, beside those of other archives."""
    imports = ArchiveImports(archive.folder)
    with imports.in_place():
        service = load_service(archive, gpu_id, NoMetrics())
    return ArchiveWorker(service, imports.in_place)


class LocalModels:
    """Archives of a model store, loaded one after the other; of one event loop."""

    def __init__(self, workers: Mapping[Archive, ArchiveWorker]) -> None:
        self._archives = {archive.name: archive for archive in workers}
        self._served = {
            archive.name: ServedModel(worker, archive.batch_limits)
            for archive, worker in workers.items()
        }
        self._known: dict[str, Model] = {}

    async def models(self) -> list[Model]:
        """Return the models there are, by name."""
        return [await self.model(name) for name in sorted(self._served)]

    async def model(self, name: str) -> Model:
        """Return one of them; raises `ModelNotFoundError`."""
        if name not in self._served:
            raise ModelNotFoundError("ModelNotFound", "Expected a model that is served.")
        if name not in self._known:
            version = self._archives[name].version
            about = read_description(await describe(self._served[name]))
            versions = (ModelVersion(version, True),)
            self._known[name] = Model(name, versions, version, True, about)
        return self._known[name]

    async def answer(self, model: str, request: WorkerRequest) -> WorkerAnswer:
        """Return an answer whole."""
        return await self._served[model].answer(request)

    async def stream(self, model: str, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of an answer."""
        async with aclosing(self._served[model].stream(request)) as parts:
            async for part in parts:
                yield part

    async def aclose(self) -> None:
        """End the batches."""
        for served in self._served.values():
            await served.aclose()


class LocalEngine(ContractEngine):
    """The archives of a model store in this process."""

    def __init__(self, workers: Mapping[Archive, ArchiveWorker]) -> None:
        models = LocalModels(workers)
        super().__init__(FrontEnd(models), models)


def load_store(store: Path, workspace: Path) -> dict[Archive, ArchiveWorker]:
    """Return the loaded archives of a model store, unpacked below `workspace`."""
    archives = [open_archive(path, workspace) for path in find_archives(store).values()]
    return {archive: load_worker(archive) for archive in archives}
