"""The models of a Ray cluster: an application of Ray Serve's for each archive."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from cluster.front_end import BUSY_S, RefusalError, full_queue
from cluster.requests import WorkerAnswer, WorkerRequest
from gateway.contract.catalogue import KeptCatalogue
from gateway.contract.descriptions import read_description
from gateway.engine import Description, Model, ModelVersion

# The name of the one deployment of a model's application.
DEPLOYMENT = "Model"
SESSION_HEADER = "ts_request_sequence_id"


class RayModels(KeptCatalogue):
    """Knows the models of a cluster, and brings requests to their replicas."""

    def __init__(self, refresh_s: float) -> None:
        super().__init__(self._read_cluster, refresh_s)
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._about: dict[tuple[str, float], dict[str, Any]] = {}

    async def answer(self, model: str, request: WorkerRequest) -> WorkerAnswer:
        """Return an answer whole; raises `RefusalError` where there is none."""
        response = self._handle(model, request).answer.remote(request)
        with as_refusals():
            answer: WorkerAnswer = await response
            return answer

    async def stream(self, model: str, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of an answer; raises `RefusalError` where there is none."""
        # Typed by what it returns without `stream=True`.
        parts: Any = self._handle(model, request).options(stream=True).stream.remote(request)
        with as_refusals():
            try:
                async for part in parts:
                    yield part
            finally:
                parts.cancel()

    def _handle(self, model: str, request: WorkerRequest) -> DeploymentHandle[Any]:
        if model not in self._handles:
            self._handles[model] = serve.get_deployment_handle(DEPLOYMENT, model)
        session = next((value for name, value in request.headers if name == SESSION_HEADER), "")
        handle = self._handles[model]
        return handle.options(session_id=session) if session else handle

    async def _read_cluster(self) -> list[Model]:
        status = await asyncio.to_thread(serve.status)
        models = {
            name: state
            for name, state in status.applications.items()
            if DEPLOYMENT in state.deployments
        }
        self._handles = {name: self._handles[name] for name in models.keys() & self._handles}
        return [await self._read_model(name, state) for name, state in models.items()]

    async def _read_model(self, name: str, state: ApplicationStatusOverview) -> Model:
        ready = state.status == ApplicationStatus.RUNNING
        key = (name, state.last_deployed_time_s)
        if ready and key not in self._about:
            handle = serve.get_deployment_handle(DEPLOYMENT, name)
            self._about[key] = await handle.about.remote()
        about = self._about.get(key, {})
        version = about.get("version", "")
        described = read_description(about.get("description")) if about else Description()
        return Model(name, (ModelVersion(version, ready),), version, ready, described)


@contextmanager
def as_refusals() -> Iterator[None]:
    """Raise what goes wrong on the way to a replica as TorchServe's front end says it."""
    try:
        yield
    except BackPressureError as error:
        raise full_queue() from error
    except (RayActorError, ReplicaUnavailableError) as error:
        raise RefusalError(507, "InternalServerException", "Worker died.") from error
    except RayServeException as error:
        raise RefusalError(
            503,
            "ServiceUnavailableException",
            "Expected a replica of the model, got none. Try again.",
            {"retry-after": str(BUSY_S)},
        ) from error
