"""A replica of Ray Serve's with an archive in it: one worker of TorchServe's."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import ray

from cluster.archives import BatchLimits, open_archive
from cluster.measures import choose_measure
from cluster.ray_metrics import RayMetrics
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.served_model import ServedModel, describe
from cluster.worker import ArchiveWorker, load_alone
from cluster.workspaces import Workspace


class HungWorkerError(Exception):
    """A batch runs for longer than the archive allows: the replica has to be replaced."""


class ModelReplica:
    """Answers requests with an archive; Ray Serve makes as many as are needed."""

    def __init__(self, path: str) -> None:
        self._workspace = Workspace()
        self._archive = archive = open_archive(Path(path), self._workspace.path)
        # Ray shows a replica the GPUs that are its own.
        gpu_id = 0 if ray.get_gpu_ids() else None
        worker = ArchiveWorker(load_alone(archive, gpu_id, RayMetrics()))
        self._served = ServedModel(worker, archive.batch_limits, choose_measure(archive))
        self._description: dict[str, Any] | None = None

    def __del__(self) -> None:
        """End with what is unpacked: Ray Serve calls this when a replica goes that was drained."""
        self._workspace.close()

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take other limits of batches, while requests are answered."""
        self._served.limits = BatchLimits(**{**vars(self._archive.batch_limits), **config})

    async def answer(self, request: WorkerRequest) -> WorkerAnswer:
        """Return the answer to a request, whole."""
        return await self._served.answer(request)

    async def stream(self, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the answer to a request in parts."""
        async with aclosing(self._served.stream(request)) as parts:
            async for part in parts:
                yield part

    async def about(self) -> dict[str, Any]:
        """Return the version of the archive, and what its handler says that it is."""
        if self._description is None:
            self._description = await describe(self._served)
        return {"version": self._archive.version, "description": self._description}

    def check_health(self) -> None:
        """Raise `HungWorkerError` where a batch takes longer than `responseTimeout`."""
        if self._served.busy_s > self._archive.response_timeout_s:
            raise HungWorkerError(f"{self._archive.name}: a batch takes too long.")
