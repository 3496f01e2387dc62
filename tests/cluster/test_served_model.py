"""Batches out of requests that come together, and what each of them is answered."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from cluster.archives import BatchLimits
from cluster.local import load_worker
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.served_model import ServedModel
from cluster.worker import ArchiveWorker
from support.archives import load_small, write_archive

Act = Callable[[ServedModel], Awaitable[Any]]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> ArchiveWorker:
    """Return the worker of the small archive."""
    return load_small(tmp_path_factory.mktemp("small") / "archive")[1]


def saying(text: str) -> WorkerRequest:
    return WorkerRequest([("content-type", "application/octet-stream")], text.encode())


def work_of(request: WorkerRequest) -> float:
    """Return the number that a request says."""
    return float(request.body)


def act(worker: ArchiveWorker, limits: BatchLimits, do: Act) -> Any:
    async def run() -> Any:
        served = ServedModel(worker, limits, work_of)
        try:
            return await asyncio.wait_for(do(served), 30)
        finally:
            await served.aclose()

    return asyncio.run(run())


async def ask_all(served: ServedModel, *texts: str) -> list[str]:
    answers = await asyncio.gather(*(served.answer(saying(text)) for text in texts))
    return [answer.refusal or answer.body.decode() for answer in answers]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, ["a:1", "b:1", "c:1", "d:1", "e:1"]),
        (2, ["a:2", "b:2", "c:2", "d:2", "e:1"]),
        (8, ["a:5", "b:5", "c:5", "d:5", "e:5"]),
    ],
)
def test_requests_that_come_together_are_a_batch(
    worker: ArchiveWorker, size: int, expected: list[str]
) -> None:
    limits = BatchLimits(size, 0.05)
    assert act(worker, limits, lambda served: ask_all(served, *"abcde")) == expected


def test_batch_waits_for_more_no_longer_than_its_delay(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[str]:
        first = asyncio.create_task(served.answer(saying("1")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(served.answer(saying("2")))
        return [(await each).body.decode() for each in (first, second)]

    assert act(worker, BatchLimits(8, 0.02), ask) == ["1:1", "2:1"]
    assert act(worker, BatchLimits(8, 0.5), ask) == ["1:2", "2:2"]


def test_batch_has_no_more_work_than_its_limit(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[str]:
        return await ask_all(served, "4", "5", "3", "20", "1", "1")

    # 4 and 5 are together; 3 would be too much; 20 is too much for any, and goes alone.
    assert act(worker, BatchLimits(8, 0.05, most_work=10), ask) == [
        *("4:2", "5:2", "3:1", "20:1", "1:2", "1:2"),
    ]


def test_work_is_measured_once_and_in_the_workers_thread(worker: ArchiveWorker) -> None:
    """The event loop has others to serve meanwhile."""
    measured = []

    def measure(request: WorkerRequest) -> float:
        measured.append((request.body.decode(), threading.current_thread().name.split("_")[0]))
        return work_of(request)

    async def ask() -> list[str]:
        served = ServedModel(worker, BatchLimits(8, 0.05, most_work=10), measure)
        try:
            return await ask_all(served, "4", "5", "3", "6")
        finally:
            await served.aclose()

    assert asyncio.run(ask()) == ["4:2", "5:2", "3:2", "6:2"]
    assert measured == [(each, "worker") for each in "4536"]


def test_request_that_cannot_be_measured_is_the_handlers(
    worker: ArchiveWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(served: ServedModel) -> list[str]:
        return await ask_all(served, "4", "many", "5")

    limits = BatchLimits(8, 0.05, most_work=10)
    assert act(worker, limits, ask) == ["4:3", "many:3", "5:3"]
    assert caplog.messages == ["A request could not be measured: ValueError."]


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ("fail", "Prediction failed"),
        ("short", "number of batch response mismatched"),
        ("none", "Invalid model predict output"),
    ],
)
def test_handler_that_fails_refuses_in_torchserves_words(
    worker: ArchiveWorker, said: str, refusal: str
) -> None:
    async def ask(served: ServedModel) -> tuple[WorkerAnswer, WorkerAnswer]:
        return await served.answer(saying(said)), await served.answer(saying("after"))

    refused, after = act(worker, BatchLimits(), ask)
    assert (refused.status, refused.refusal) == (503, refusal)
    assert after.body == b"after:1"


def test_header_that_is_no_utf8_fails_nobody(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[WorkerAnswer]:
        odd = WorkerRequest([("x-request-id", "caf\xe9")], b"headers")
        return await asyncio.gather(*(served.answer(each) for each in (odd, odd)))

    for answer in act(worker, BatchLimits(1, 0.0), ask):
        assert json.loads(answer.body)["x-request-id"] == "caf\xe9"


def test_status_and_headers_of_one_of_a_batch(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[WorkerAnswer]:
        requests = [saying("teapot"), saying("other")]
        return await asyncio.gather(*map(served.answer, requests))

    pot, other = act(worker, BatchLimits(2, 0.5), ask)
    assert (pot.status, pot.body) == (418, b"teapot:2")
    assert dict(pot.headers) == {"content-type": "text/tea", "x-pot": "tea"}
    assert (other.status, other.headers, other.body) == (200, [], b"other:2")


def test_parts_come_before_the_rest(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[tuple[bytes, bool]]:
        return [(part.body, part.more) async for part in served.stream(saying("stream"))]

    parts = act(worker, BatchLimits(), ask)
    assert parts == [(b"a", True), (b"b", True), (b"stream:1", False)]
    whole = act(worker, BatchLimits(), lambda served: served.answer(saying("stream")))
    assert whole.body == b"abstream:1"


def test_request_that_was_taken_back_is_not_answered(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[str]:
        running = asyncio.create_task(served.answer(saying("wait")))
        await asyncio.sleep(0.1)
        taken_back = asyncio.create_task(served.answer(saying("7")))
        stays = asyncio.create_task(served.answer(saying("8")))
        await asyncio.sleep(0.05)
        assert served.waiting == 2
        taken_back.cancel()
        await asyncio.sleep(0.05)
        # Its place is another's, though the batch before it runs.
        assert served.waiting == 1
        return [(await each).body.decode() for each in (running, stays)]

    # The one that stays is alone in its batch.
    assert act(worker, BatchLimits(8, 0.0), ask) == ["wait:1", "8:1"]


def test_stream_that_is_closed_ends(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> bytes:
        async with aclosing(served.stream(saying("stream"))) as parts:
            await anext(parts)
        return (await served.answer(saying("after"))).body

    assert act(worker, BatchLimits(), ask) == b"after:1"


def test_it_is_known_for_how_long_a_batch_runs(worker: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> tuple[float, float, float]:
        before = served.busy_s
        running = asyncio.create_task(served.answer(saying("wait")))
        await asyncio.sleep(0.2)
        during = served.busy_s
        await running
        await asyncio.sleep(0.05)
        return before, during, served.busy_s

    before, during, after = act(worker, BatchLimits(), ask)
    assert before == after == 0
    assert 0.05 < during < 0.35


# Answers a request in the call of the number that it says, and tells how many came with it.
CONTINUOUS = """
class Handler:
    def initialize(self, context):
        self.calls = {}

    def handle(self, data, context):
        ids = dict(context.request_ids)
        self.calls = {name: self.calls.get(name, 0) + 1 for name in ids.values()}
        context.stopping_criteria = {}
        answers = [""] * len(data)
        for index, name in ids.items():
            if self.calls[name] < int(bytes(data[index]["body"])):
                del context.request_ids[index]
            elif len(ids) == 5:
                raise RuntimeError("a mistake")
            else:
                context.stopping_criteria[index] = lambda _: True
                answers[index] = f"{self.calls.pop(name)} of {len(ids)}"
        return answers
"""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> ArchiveWorker:
    """Return the worker of an archive that takes several calls for an answer."""
    folder = tmp_path_factory.mktemp("patient") / "archive"
    return load_worker(write_archive(folder, CONTINUOUS))


def test_request_joins_those_that_go_on(patient: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> tuple[str, str]:
        long = asyncio.create_task(served.answer(saying("3000")))
        await asyncio.sleep(0.05)
        short = (await served.answer(saying("3"))).body.decode()
        assert not long.done()
        return short, (await long).body.decode()

    assert act(patient, BatchLimits(8), ask) == ("3 of 2", "3000 of 1")


def test_no_more_go_on_than_a_batch_has(patient: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[str]:
        return await ask_all(served, "5", "2", "1", "3")

    assert act(patient, BatchLimits(2, 0.05), ask) == ["5 of 2", "2 of 2", "1 of 2", "3 of 1"]


def test_request_that_goes_on_is_taken_back(patient: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> str:
        gone = asyncio.create_task(served.answer(saying("100000000")))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        return (await served.answer(saying("2"))).body.decode()

    assert act(patient, BatchLimits(1), ask) == "2 of 1"


def test_failure_is_that_of_all_that_go_on(patient: ArchiveWorker) -> None:
    async def ask(served: ServedModel) -> list[str]:
        return await ask_all(served, "9", "8", "7", "6", "2")

    assert act(patient, BatchLimits(5, 0.05), ask) == ["Prediction failed"] * 5
