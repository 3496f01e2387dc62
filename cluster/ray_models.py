"""The models of a Ray cluster: an application of Ray Serve's for each archive."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve._private.common import ReplicaState
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from cluster.front_end import BUSY_S, RefusalError, full_queue
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.waiting import WaitingRequests
from gateway.contract.catalogue import KeptCatalogue
from gateway.contract.descriptions import read_description
from gateway.engine import Model, ModelVersion, UnavailableError

# The name of the one deployment of a model's application.
DEPLOYMENT = "Model"
SESSION_HEADER = "ts_request_sequence_id"
# Whom Ray sends requests to.
ANSWERING = (ReplicaState.RUNNING, ReplicaState.PENDING_MIGRATION)
# How long the list of models waits for what a model says of itself; a busy one says it later.
ASK_TIMEOUT_S = 1.0

States = Mapping[str, ApplicationStatusOverview]


class About(NamedTuple):
    """What a model said of itself, and when Ray was told of it; None while it was updated."""

    deployed_s: float | None
    said: Mapping[str, Any]


class RayModels(KeptCatalogue):
    """Knows the models of a cluster, and brings requests to their replicas.

    A model is ready while a replica answers, or may be made for a request where there is none.
    """

    def __init__(self, refresh_s: float) -> None:
        super().__init__(self._read_cluster, refresh_s)
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._about: dict[str, About] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._waiting = WaitingRequests(self._find_ready, refresh_s)

    async def aclose(self) -> None:
        """Stop looking models up."""
        await super().aclose()
        await self._waiting.aclose()
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def answer(self, model: str, request: WorkerRequest) -> WorkerAnswer:
        """Return an answer whole; raises `RefusalError` where there is none."""
        await self._check_replicas(model)
        response = self._handle(model, request).answer.remote(request)
        with as_refusals(), self._waiting.watched(model, response):
            answer: WorkerAnswer = await response
            return answer

    async def stream(self, model: str, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of an answer; raises `RefusalError` where there is none."""
        await self._check_replicas(model)
        # Typed by what it returns without `stream=True`.
        parts: Any = self._handle(model, request).options(stream=True).stream.remote(request)
        with as_refusals(), self._waiting.watched(model, parts):
            try:
                async for part in parts:
                    yield part
            finally:
                parts.cancel()

    async def _check_replicas(self, model: str) -> None:
        """Raise `RefusalError` where Ray would let a request wait, for however long, for a replica.

        What is known may be old: it is looked up again before anybody is refused.
        """
        if not self._is_known_ready(model):
            await self.models()
        if not self._is_known_ready(model):
            raise no_replica()

    async def _find_ready(self) -> set[str]:
        return {each.name for each in await self.models_now() if each.ready}

    def _is_known_ready(self, model: str) -> bool:
        return model in self._models and self._models[model].ready

    def _handle(self, model: str, request: WorkerRequest) -> DeploymentHandle[Any]:
        if model not in self._handles:
            self._handles[model] = serve.get_deployment_handle(DEPLOYMENT, model)
        session = next((value for name, value in request.headers if name == SESSION_HEADER), "")
        handle = self._handles[model]
        return handle.options(session_id=session) if session else handle

    async def _read_cluster(self) -> list[Model]:
        with as_engine_errors():
            status = await asyncio.to_thread(serve.status)
        applications = status.applications.items()
        states = {name: state for name, state in applications if self._is_model(name, state)}
        self._forget(states)
        await self._ask_all(states)
        return [self._make_model(name, state) for name, state in states.items()]

    def _is_model(self, name: str, state: ApplicationStatusOverview) -> bool:
        """Tell whether an application is a model.

        While one that was there is rebuilt, or deleted, Ray lists no deployments. Until it is
        rebuilt, its old replicas answer.
        """
        if state.deployments:
            return DEPLOYMENT in state.deployments
        return name in self._models and state.status != ApplicationStatus.DELETING

    def _forget(self, states: States) -> None:
        """Forget models that have gone."""
        for gone in self._asking.keys() - states:
            self._asking[gone].cancel()
        for known in (self._handles, self._about):
            for gone in known.keys() - states:
                del known[gone]

    async def _ask_all(self, states: States) -> None:
        """Ask models that were deployed what they are; those that are busy tell it later."""
        asked = [
            self._ask(name, state)
            for name, state in states.items()
            if name not in self._asking and self._is_to_be_asked(name, state)
        ]
        if asked:
            await asyncio.wait(asked, timeout=ASK_TIMEOUT_S)

    def _is_to_be_asked(self, name: str, state: ApplicationStatusOverview) -> bool:
        if name not in self._about:
            return self._is_ready(name, state)
        return find_deployed_s(state) not in (None, self._about[name].deployed_s)

    def _ask(self, name: str, state: ApplicationStatusOverview) -> asyncio.Task[None]:
        async def ask() -> None:
            # Its queue is full, or its replica has gone: it is asked again.
            with suppress(RayServeException, RayError):
                handle = serve.get_deployment_handle(DEPLOYMENT, name)
                self._about[name] = About(find_deployed_s(state), await handle.about.remote())

        task = self._asking[name] = asyncio.create_task(ask())
        task.add_done_callback(lambda _: self._asking.pop(name))
        return task

    def _is_ready(self, name: str, state: ApplicationStatusOverview) -> bool:
        if DEPLOYMENT not in state.deployments:
            return self._models[name].ready
        if find_deployed_s(state) is not None:
            # Where it has no replicas, it makes them when it is asked.
            return True
        replicas = state.deployments[DEPLOYMENT].replica_states
        return any(replicas.get(each) for each in ANSWERING)

    def _make_model(self, name: str, state: ApplicationStatusOverview) -> Model:
        ready = self._is_ready(name, state)
        said = self._about[name].said if name in self._about else {}
        version, described = said.get("version", ""), read_description(said.get("description"))
        return Model(name, (ModelVersion(version, ready),), version, ready, described)


def find_deployed_s(state: ApplicationStatusOverview) -> float | None:
    """Return when Ray was told of an application all of which runs, None for another."""
    return state.last_deployed_time_s if state.status == ApplicationStatus.RUNNING else None


def no_replica() -> RefusalError:
    """Return why a request is refused where no replica of a model would answer it."""
    return RefusalError(
        503,
        "ServiceUnavailableException",
        "Expected a replica of the model, got none. Try again.",
        {"retry-after": str(BUSY_S)},
    )


@contextmanager
def as_engine_errors() -> Iterator[None]:
    """Raise what Ray says where it does not tell its models as `UnavailableError`."""
    try:
        yield
    except (RayServeException, RayError) as error:
        raise UnavailableError(
            "EngineUnreachable", "Expected Ray to list its models, got an error.", BUSY_S
        ) from error


@contextmanager
def as_refusals() -> Iterator[None]:
    """Raise what goes wrong on the way to a replica as TorchServe's front end says it."""
    try:
        yield
    except BackPressureError as error:
        raise full_queue() from error
    except (RayActorError, ReplicaUnavailableError) as error:
        raise RefusalError(507, "InternalServerException", "Worker died.") from error
    except (RayServeException, TaskCancelledError) as error:
        raise no_replica() from error
