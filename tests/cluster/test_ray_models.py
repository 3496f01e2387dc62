"""What is known of the models of a Ray cluster, out of what Ray and its replicas say of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve._private.common import (
    DeploymentStatus,
    DeploymentStatusTrigger,
    ReplicaState,
    RequestMetadata,
)
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentResponse
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
    ServeStatus,
)

from cluster.front_end import FrontEnd, RefusalError
from cluster.ray_models import DEPLOYMENT, RayModels
from cluster.requests import WorkerAnswer, WorkerRequest
from gateway.engine import Kind, ModelNotFoundError, UnavailableError

REQUEST = WorkerRequest([], b"x")
ANSWER = WorkerAnswer(200, [], b"said")
FULL = BackPressureError(1, 1)


def deployed(
    time_s: float,
    status: ApplicationStatus = ApplicationStatus.RUNNING,
    *,
    deployment: str | None = DEPLOYMENT,
    **replicas: int,
) -> ApplicationStatusOverview:
    """Return what Ray says of an application, with so many replicas in states."""
    overview = DeploymentStatusOverview(
        DeploymentStatus.HEALTHY,
        DeploymentStatusTrigger.UNSPECIFIED,
        {ReplicaState(state): count for state, count in replicas.items()},
        "",
    )
    deployments = {deployment: overview} if deployment else {}
    return ApplicationStatusOverview(status, "", time_s, deployments)


class Ray:
    """Stands where Ray is: what it says of applications, and what their replicas do."""

    def __init__(self) -> None:
        self.applications: dict[str, ApplicationStatusOverview] = {}
        self.about: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.asked: list[str] = []
        # The replicas of requests that wait for one, by model.
        self.replicas: dict[str, Future[Any]] = {}
        self.error: Exception | None = None

    def status(self) -> ServeStatus:
        """Return what there is, or fail."""
        if self.error:
            raise self.error
        return ServeStatus(applications=dict(self.applications))

    def tell(self, name: str, version: str) -> None:
        """Let a model say that it is of a version."""

        async def about() -> dict[str, Any]:
            return {"version": version, "description": {"kind": "sequence_classification"}}

        self.about[name] = about

    def fail(self, name: str, error: Exception) -> None:
        """Let questions to a model fail."""

        async def about() -> dict[str, Any]:
            raise error

        self.about[name] = about

    def handle(self, deployment: str, name: str) -> Any:
        """Return what asks the replicas of a model."""
        assert deployment == DEPLOYMENT
        ray = self

        class Handle:
            class about:  # noqa: N801 - as Ray's handles have methods
                @staticmethod
                def remote() -> Awaitable[Any]:
                    ray.asked.append(name)
                    return ray.about[name]()

            class answer:  # noqa: N801
                @staticmethod
                def remote(_: WorkerRequest) -> Awaitable[WorkerAnswer]:
                    replica = ray.replicas.setdefault(name, answering())
                    return DeploymentResponse(replica, RequestMetadata("1", "2"))

            class stream:  # noqa: N801
                @staticmethod
                def remote(_: WorkerRequest) -> Any:
                    return Parts()

            def options(self, **_: Any) -> "Handle":
                return self

        return Handle()


class Replica:
    """Stands for a replica that has a request."""

    async def get_async(self) -> WorkerAnswer:
        """Return its answer."""
        return ANSWER

    def cancel(self) -> None:
        """Forget the request."""


def answering() -> "Future[Any]":
    """Return a replica that is there at once."""
    replica: Future[Any] = Future()
    replica.set_result(Replica())
    return replica


class Parts:
    """An answer in one part."""

    async def __aiter__(self) -> AsyncIterator[WorkerAnswer]:
        yield ANSWER

    def cancel(self) -> None:
        """End it."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    """Return what stands where Ray is."""
    ray = Ray()
    monkeypatch.setattr(serve, "status", ray.status)
    monkeypatch.setattr(serve, "get_deployment_handle", ray.handle)
    monkeypatch.setattr("cluster.ray_models.ASK_TIMEOUT_S", 0.02)
    return ray


def act(do: Callable[[RayModels], Awaitable[Any]]) -> Any:
    """Do something with models that are looked up again each time."""

    async def run() -> Any:
        models = RayModels(0.0)
        try:
            return await asyncio.wait_for(do(models), 30)
        finally:
            await models.aclose()

    return asyncio.run(run())


async def known(models: RayModels) -> dict[str, tuple[str, bool, Kind | None]]:
    """Return what is known of each model: its version, whether it is ready, its kind."""
    return {
        each.name: (each.default_version, each.ready, each.kind) for each in await models.models()
    }


A, B = ("1.0", True, Kind.SEQUENCE_CLASSIFICATION), ("3.0", True, Kind.SEQUENCE_CLASSIFICATION)


def test_model_that_is_deployed_anew_stays_what_it_was_while_its_old_replicas_answer(
    ray: Ray,
) -> None:
    async def look(models: RayModels) -> None:
        ray.applications = {"a": deployed(1, RUNNING=2), "gateway": deployed(1, deployment="G")}
        ray.tell("a", "1.0")
        assert await known(models) == {"a": A}
        ray.tell("a", "3.0")
        # Ray builds it, then loads one replica after the other.
        for there in (
            deployed(2, ApplicationStatus.DEPLOYING, deployment=None),
            deployed(2, ApplicationStatus.DEPLOYING, RUNNING=1, STARTING=1),
            deployed(2, ApplicationStatus.DEPLOY_FAILED, PENDING_MIGRATION=1),
        ):
            ray.applications["a"] = there
            assert await known(models) == {"a": A}
            assert await models.answer("a", REQUEST) == ANSWER
        ray.applications["a"] = deployed(2, RUNNING=2)
        assert await known(models) == await known(models) == {"a": B}
        assert ray.asked == ["a", "a"]
        ray.applications["a"] = deployed(2, ApplicationStatus.DELETING, deployment=None)
        assert await known(models) == {}
        with pytest.raises(ModelNotFoundError):
            await models.model("a")

    act(look)


def test_application_that_is_built_for_the_first_time_is_no_model_yet(ray: Ray) -> None:
    ray.applications = {"a": deployed(1, ApplicationStatus.DEPLOYING, deployment=None)}
    assert act(known) == {}


def test_replicas_that_answer_are_asked_where_nothing_is_known(ray: Ray) -> None:
    async def look(models: RayModels) -> list[dict[str, Any]]:
        ray.applications = {"a": deployed(2, ApplicationStatus.DEPLOYING, RUNNING=1)}
        ray.tell("a", "1.0")
        first = [await known(models), await known(models)]
        ray.applications = {"a": deployed(2, RUNNING=2)}
        ray.tell("a", "3.0")
        return [*first, await known(models)]

    assert act(look) == [{"a": A}, {"a": A}, {"a": B}]
    assert ray.asked == ["a", "a"]


@pytest.mark.parametrize("error", [FULL, RayActorError()])
def test_model_that_cannot_say_what_it_is_keeps_none_of_the_others_from_it(
    ray: Ray, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def look(models: RayModels) -> list[dict[str, Any]]:
        ray.applications = {"a": deployed(1, RUNNING=1), "b": deployed(1, RUNNING=1)}
        ray.tell("a", "1.0")
        ray.fail("b", error)
        first = await known(models)
        ray.tell("b", "3.0")
        second = await known(models)
        ray.fail("a", error)
        ray.applications["a"] = deployed(2, RUNNING=1)
        # Looked up beside a request, too.
        await models.model("a")
        await asyncio.sleep(0.05)
        return [first, second, await known(models)]

    with caplog.at_level(logging.ERROR):
        assert act(look) == [
            {"a": A, "b": ("", True, None)},
            {"a": A, "b": B},
            {"a": A, "b": B},
        ]
    assert caplog.records == []


def test_busy_model_that_has_not_said_its_version_has_any(ray: Ray) -> None:
    async def ask(models: RayModels) -> tuple[int, int]:
        ray.applications = {"a": deployed(1, RUNNING=1)}
        ray.fail("a", RayServeException("full"))
        busy = await FrontEnd(models).request("POST", b"/predictions/a/7", [], b"")
        ray.tell("a", "1.0")
        await models.models()
        told = await FrontEnd(models).request("POST", b"/predictions/a/7", [], b"")
        return busy.status, told.status

    assert act(ask) == (200, 404)


def test_busy_model_is_asked_once_and_waited_for_once(ray: Ray) -> None:
    free = asyncio.Event()

    async def about() -> dict[str, Any]:
        await free.wait()
        return {"version": "3.0", "description": {"kind": "sequence_classification"}}

    async def look(models: RayModels) -> list[dict[str, Any]]:
        ray.applications = {"a": deployed(1, RUNNING=1), "b": deployed(1, RUNNING=1)}
        ray.about["b"] = about
        ray.tell("a", "1.0")
        busy = [await known(models), await known(models)]
        free.set()
        await asyncio.sleep(0)
        return [*busy, await known(models)]

    unknown = {"a": A, "b": ("", True, None)}
    assert act(look) == [unknown, unknown, {"a": A, "b": B}]
    assert sorted(ray.asked) == ["a", "b"]


def test_question_to_a_model_that_goes_is_taken_back(ray: Ray) -> None:
    async def about() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def look(models: RayModels) -> dict[str, Any]:
        ray.applications = {"a": deployed(1, RUNNING=1)}
        ray.about["a"] = about
        await known(models)
        ray.applications = {}
        assert await known(models) == {}
        # Another of its name is asked anew.
        ray.applications = {"a": deployed(2, RUNNING=1)}
        ray.tell("a", "1.0")
        return await known(models)

    assert act(look) == {"a": A}


@pytest.mark.parametrize(
    "state",
    [
        # It loads; no node has room; its only replica was stopped for another; it has died.
        deployed(1, ApplicationStatus.DEPLOYING, STARTING=1),
        deployed(1, ApplicationStatus.DEPLOYING),
        deployed(1, ApplicationStatus.DEPLOYING, STOPPING=1, STARTING=1),
        deployed(1, ApplicationStatus.UNHEALTHY, STARTING=1),
    ],
)
def test_model_without_a_replica_refuses_at_once(
    ray: Ray, state: ApplicationStatusOverview
) -> None:
    async def ask(models: RayModels) -> list[RefusalError]:
        ray.applications = {"a": state}
        await models.models()
        refusals = []
        with pytest.raises(RefusalError) as refused:
            await models.answer("a", REQUEST)
        refusals.append(refused.value)
        with pytest.raises(RefusalError) as refused:
            await anext(models.stream("a", REQUEST))
        return [*refusals, refused.value]

    for refusal in act(ask):
        assert (refusal.status, refusal.headers) == (503, {"retry-after": "1"})
        assert refusal.message == "Expected a replica of the model, got none. Try again."
    assert ray.asked == []


def test_model_whose_replica_has_come_answers_whatever_was_known(ray: Ray) -> None:
    async def ask(models: RayModels) -> tuple[WorkerAnswer, list[WorkerAnswer]]:
        ray.applications = {"a": deployed(1, ApplicationStatus.DEPLOYING, STARTING=1)}
        await models.models()
        ray.tell("a", "1.0")
        ray.applications = {"a": deployed(1, RUNNING=1)}
        answer = await models.answer("a", REQUEST)
        return answer, [part async for part in models.stream("a", REQUEST)]

    assert act(ask) == (ANSWER, [ANSWER])


@pytest.mark.parametrize("application", [deployed(1), deployed(1, STARTING=1)])
def test_model_that_makes_replicas_when_it_is_asked_is_asked(
    ray: Ray, application: ApplicationStatusOverview
) -> None:
    async def ask(models: RayModels) -> WorkerAnswer:
        ray.applications = {"a": application}
        ray.tell("a", "1.0")
        await models.models()
        return await models.answer("a", REQUEST)

    assert act(ask) == ANSWER


@pytest.mark.parametrize("error", [RayServeException("gone"), RayActorError()])
def test_ray_that_does_not_tell_its_models_is_unavailable(ray: Ray, error: Exception) -> None:
    ray.error = error
    with pytest.raises(UnavailableError, match="Expected Ray to list its models"):
        act(known)


def test_request_that_waits_is_refused_once_its_model_has_no_replica(ray: Ray) -> None:
    async def ask(models: RayModels) -> tuple[int, WorkerAnswer]:
        ray.applications = {name: deployed(1, RUNNING=1) for name in "ab"}
        for name in "ab":
            ray.tell(name, "1.0")
            ray.replicas[name] = Future()
        lost, kept = (asyncio.create_task(models.answer(name, REQUEST)) for name in "ab")
        await asyncio.sleep(0.05)
        assert not lost.done()
        ray.applications["a"] = deployed(1, ApplicationStatus.DEPLOYING, STARTING=1)
        with pytest.raises(RefusalError) as raised:
            await lost
        await asyncio.sleep(0.05)
        assert not kept.done()
        ray.replicas["b"].set_result(Replica())
        return raised.value.status, await kept

    assert act(ask) == (503, ANSWER)


def test_request_that_waits_goes_on_while_ray_does_not_say_what_there_is(ray: Ray) -> None:
    async def ask(models: RayModels) -> int:
        ray.applications = {"a": deployed(1, RUNNING=1)}
        ray.tell("a", "1.0")
        await models.models()
        ray.replicas["a"] = Future()
        waiting = asyncio.create_task(models.answer("a", REQUEST))
        await asyncio.sleep(0)
        ray.error = RayServeException("no controller")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        ray.error = None
        ray.applications["a"] = deployed(1, ApplicationStatus.DEPLOYING, STARTING=1)
        with pytest.raises(RefusalError) as raised:
            await waiting
        return raised.value.status

    assert act(ask) == 503
