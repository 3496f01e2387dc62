"""A model that is served: requests that come together are answered together, in batches."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cluster.archives import BatchLimits
from cluster.requests import WorkerAnswer, WorkerRequest, join_parts
from cluster.worker import ArchiveWorker

logger = logging.getLogger(__name__)

# What a model is asked to say what it is, as by TorchServe's management API.
DESCRIBE = WorkerRequest([("describe", "True")], b"")
FAILED = WorkerAnswer(503, (), b"", refusal="Prediction failed")
# How much work a request is, in the batch's unit: seconds of audio, or tokens.
Measure = Callable[[WorkerRequest], float]


@dataclass(eq=False)
class _Waiting:
    """A request that has no answer yet; `answers` is told of its parts."""

    request: WorkerRequest
    # Measured when it may join a batch.
    work: float | None = None
    answers: "asyncio.Queue[WorkerAnswer]" = field(default_factory=asyncio.Queue)
    left: bool = False


class ServedModel:
    """A worker, and the requests that wait for it; of one event loop.

    The worker is called with a batch until all of it is answered; where its archive batches
    continuously, others join the batch between two calls.
    """

    def __init__(
        self,
        worker: ArchiveWorker,
        limits: BatchLimits,
        measure: Measure = lambda _: 0.0,
    ) -> None:
        self.limits = limits
        self._worker = worker
        self._measure = measure
        self._queue: deque[_Waiting] = deque()
        self._came = asyncio.Event()
        self._open: dict[int, _Waiting] = {}
        # Handlers are called from one thread, as in a worker.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._batches: asyncio.Task[None] | None = None

    @property
    def busy_s(self) -> float:
        """Return for how long the batch that runs has been running, 0 where none does."""
        return self._worker.busy_s

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a batch."""
        return len(self._queue)

    async def answer(self, request: WorkerRequest) -> WorkerAnswer:
        """Return the answer to a request, its parts together."""
        return join_parts([part async for part in self.stream(request)])

    async def stream(self, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of the answer to a request; closing it takes the request back."""
        waiting = _Waiting(request)
        self._queue.append(waiting)
        self._came.set()
        if self._batches is None:
            self._batches = asyncio.create_task(self._serve())
        try:
            while True:
                part = await waiting.answers.get()
                yield part
                if not part.more:
                    return
        finally:
            waiting.left = True
            # Nobody waits for it: neither it nor its body takes the place of another.
            with suppress(ValueError):
                self._queue.remove(waiting)

    async def aclose(self) -> None:
        """End the batches; what waits gets no answer."""
        if self._batches:
            self._batches.cancel()
            await asyncio.wait([self._batches])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._let_in()
            self._open = {number: each for number, each in self._open.items() if not each.left}
            if self._open:
                await loop.run_in_executor(self._thread, self._advance, loop)

    def _advance(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call the worker once with what is open, in its thread."""

        def tell(number: int, answer: WorkerAnswer) -> None:
            waiting = self._open[number] if answer.more else self._open.pop(number)
            loop.call_soon_threadsafe(waiting.answers.put_nowait, answer)

        try:
            self._worker.advance(
                {number: each.request for number, each in self._open.items()}, tell
            )
        except Exception:
            logger.exception("A worker failed outside its handler.")
            for number in list(self._open):
                tell(number, FAILED)

    async def _let_in(self) -> None:
        """Open requests up to the size of a batch; wait for the first, and no longer for others."""
        now_s = asyncio.get_running_loop().time
        until_s = now_s() if self._open else None
        while len(self._open) < self.limits.size and await self._wait(until_s):
            first = self._queue[0]
            await self._weigh(first)
            if first.left:
                continue
            work = sum(each.work or 0.0 for each in (*self._open.values(), first))
            if self._open and work > self.limits.most_work:
                return
            self._open[next(self._worker.numbers)] = self._queue.popleft()
            if until_s is None:
                until_s = now_s() + self.limits.delay_s

    async def _wait(self, until_s: float | None) -> bool:
        """Tell whether a request waits by then, without a turn of the event loop where one does."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                while not self._queue:
                    self._came.clear()
                    await self._came.wait()
        return bool(self._queue)

    async def _weigh(self, waiting: _Waiting) -> None:
        """Measure the work of a request in the worker's thread, which has nothing to do yet."""
        if waiting.work is not None or self.limits.most_work == float("inf"):
            return
        loop = asyncio.get_running_loop()
        try:
            waiting.work = await loop.run_in_executor(
                self._thread, self._worker.measure, self._measure, waiting.request
            )
        except Exception as error:
            # What is wrong with it, the handler says.
            logger.warning("A request could not be measured: %s.", type(error).__name__)
            waiting.work = 0.0


async def describe(served: ServedModel) -> dict[str, Any]:
    """Return what a model says that it is, nothing where it says nothing.

    It is asked twice at most: a batch may fail for one that is beside the question.
    """
    for _ in range(2):
        answer = await served.answer(DESCRIBE)
        if not answer.refusal and answer.status < 500:
            return _read_object(answer.body)
    return {}


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
