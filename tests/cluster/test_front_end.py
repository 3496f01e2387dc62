"""From addresses of the contract to a model and back, in this process."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.archives import ArchiveError
from cluster.local import LocalEngine, LocalModels
from gateway.engine import (
    AudioFormat,
    EngineError,
    EngineTimeoutError,
    ForwardedRequest,
    InternalError,
    ModelNotFoundError,
    Request,
)
from gateway.request_context import request_id
from support.archives import load_small

BYTES = "application/octet-stream"


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that does something with an engine of one small archive."""
    archive, worker = load_small(tmp_path_factory.mktemp("small") / "archive", batchSize=4)

    def act(do: Callable[[LocalEngine], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            engine = LocalEngine({archive: worker})
            try:
                return await asyncio.wait_for(do(engine), 30)
            finally:
                await engine.aclose()

        return asyncio.run(run())

    return act


@contextmanager
def named(name: str) -> Iterator[None]:
    token = request_id.set(name)
    try:
        yield
    finally:
        request_id.reset(token)


def test_worker_learns_what_the_address_says(act: Callable[..., Any]) -> None:
    async def ask(engine: LocalEngine) -> list[Any]:
        with named("my-name"):
            answer = await engine.answer("small", Request(b"headers", BYTES), "2.1")
            explained = await engine.explain("small", Request(b"headers", BYTES))
            target = b"/predictions/small/2.1/further/steps?left=out"
            parts = ForwardedRequest("POST", target, [("content-type", BYTES)], body())
            async with await engine.forward(parts) as stepped:
                whole = b"".join([part async for part in stepped])
        return [json.loads(each) for each in (answer.body, explained.body, whole)]

    async def body() -> Any:
        yield b"head"
        yield b"ers"

    common = {"x-request-id": "my-name", "row": ["body"]}
    assert act(ask) == [
        {"explain": "False", "url_path": None, **common},
        {"explain": "True", "url_path": None, **common},
        {"explain": "False", "url_path": "further/steps", **common},
    ]


def test_models_are_what_archives_say(act: Callable[..., Any]) -> None:
    (model,) = act(lambda engine: engine.models())
    assert (model.name, model.default_version, model.ready, model.kind) == (
        *("small", "2.1", True, None),
    )


@pytest.mark.parametrize(("name", "version"), [("nobody", None), ("small", "9")])
def test_model_or_version_that_is_not_there(
    act: Callable[..., Any], name: str, version: str | None
) -> None:
    with pytest.raises(ModelNotFoundError):
        act(lambda engine: engine.answer(name, Request(b"x", BYTES), version))


def test_failure_has_the_words_of_torchserve(act: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match=r"^Prediction failed$") as caught:
        act(lambda engine: engine.answer("small", Request(b"fail", BYTES)))
    assert caught.value.kind == "InternalServer"


def test_stream_that_breaks_off_raises_behind_its_first_parts(act: Callable[..., Any]) -> None:
    got = []

    async def ask(engine: LocalEngine) -> None:
        request = Request(b"break off", BYTES, "text/event-stream")
        async with await engine.stream("small", request) as stream:
            assert stream.status == 200
            async for part in stream:
                got.append(part)

    with pytest.raises(EngineError, match="Prediction failed"):
        act(ask)
    assert got == [b"a"]


def test_stream_comes_in_parts(act: Callable[..., Any]) -> None:
    async def ask(engine: LocalEngine) -> list[bytes]:
        request = Request(b"stream", BYTES, "text/event-stream")
        async with await engine.stream("small", request) as stream:
            return [part async for part in stream]

    assert act(ask) == [b"a", b"b", b"stream:1"]


def test_session_of_a_model_that_is_not_live(act: Callable[..., Any]) -> None:
    async def speak(engine: LocalEngine) -> None:
        session = await engine.open_live("small", AudioFormat(16_000))
        await session.send(b"x")

    with pytest.raises(InternalError, match="live speech"):
        act(speak)


def test_piece_of_live_speech_waits_no_longer_than_the_settings_say(tmp_path: Path) -> None:
    archive, worker = load_small(tmp_path / "archive")

    async def speak() -> None:
        engine = LocalEngine({archive: worker}, session_answer_timeout_s=0.05)
        try:
            await (await engine.open_live("small", AudioFormat(16_000))).send(b"wait")
        finally:
            await engine.aclose()

    with pytest.raises(EngineTimeoutError, match=r"within 0\.05 s"):
        asyncio.run(speak())


def test_more_than_may_wait_are_refused(tmp_path: Path) -> None:
    archive, worker = load_small(tmp_path / "archive", cluster={"max_queued_requests": 2})

    async def run() -> list[tuple[int, str]]:
        engine = LocalEngine({archive: worker})
        try:
            await engine.models()
            running = asyncio.create_task(engine.answer("small", Request(b"wait", BYTES)))
            await asyncio.sleep(0.1)
            waiting = [
                asyncio.create_task(engine.answer("small", Request(b"more", BYTES)))
                for _ in range(2)
            ]
            await asyncio.sleep(0.01)
            target = b"/predictions/small"
            request = ForwardedRequest("POST", target, [("content-type", BYTES)], None)
            async with await engine.forward(request) as refused:
                said = refused.status, refused.headers["retry-after"]
            answers = await asyncio.gather(running, *waiting)
            return [said, *((each.status, each.body.decode()) for each in answers)]
        finally:
            await engine.aclose()

    answered = [(200, "wait:1"), (200, "more:1"), (200, "more:1")]
    assert asyncio.run(run()) == [(503, "1"), *answered]


def test_work_is_measured_with_the_library_of_the_archive(tmp_path: Path) -> None:
    """And not with another's, or the repository's."""
    keys = {"batchSize": 8, "maxBatchDelay": 200, "cluster": {"max_batch_work": 45.0}}
    folder = tmp_path / "archive" / "speechtext" / "speech"
    folder.mkdir(parents=True)
    (folder / "containers.py").write_text("find_duration_s = float")
    archive, worker = load_small(tmp_path / "archive", **keys)

    async def ask() -> list[bytes]:
        engine = LocalEngine({archive: worker})
        try:
            requests = [Request(text, BYTES) for text in (b"20", b"21", b"22")]
            answers = await asyncio.gather(*(engine.answer("small", each) for each in requests))
            return [each.body for each in answers]
        finally:
            await engine.aclose()

    assert asyncio.run(ask()) == [b"20:2", b"21:2", b"22:1"]


def test_work_of_a_batch_is_bounded_as_on_ray(tmp_path: Path) -> None:
    archive, worker = load_small(tmp_path / "archive", cluster={"max_batch_work": 3.0})
    models = LocalModels({archive: worker})
    assert models.batch_limits("small").most_work == 3
    with pytest.raises(ArchiveError, match="expected one archive of that name"):
        models.add(archive, worker)
    archive, worker = load_small(tmp_path / "wrong", cluster={"gpu": 1})
    with pytest.raises(ArchiveError, match=r"small\.yaml: cluster\.gpu: "):
        LocalModels({archive: worker})
