"""A model that is served: requests that come together are answered together, in batches."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cluster.archives import BatchLimits
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.worker import ArchiveWorker

logger = logging.getLogger(__name__)

# What a model is asked to say what it is, as by TorchServe's management API.
DESCRIBE = WorkerRequest([("describe", "True")], b"")
FAILED = WorkerAnswer(503, (), b"", refusal="Prediction failed")
# Of a request, in whatever a batch is bounded by: seconds of audio, tokens.
Measure = Callable[[WorkerRequest], float]


@dataclass
class _Waiting:
    """A request that has no answer yet; `answers` is told of its parts."""

    request: WorkerRequest
    work: float
    answers: "asyncio.Queue[WorkerAnswer]" = field(default_factory=asyncio.Queue)
    left: bool = False


class ServedModel:
    """A worker, and the requests that wait for it; of one event loop."""

    def __init__(
        self,
        worker: ArchiveWorker,
        limits: BatchLimits,
        measure: Measure = lambda _: 0.0,
    ) -> None:
        self.limits = limits
        self._worker = worker
        self._measure = measure
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._next: _Waiting | None = None
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
        return self._queue.qsize() + (self._next is not None)

    async def answer(self, request: WorkerRequest) -> WorkerAnswer:
        """Return the answer to a request, its parts together."""
        parts = [part async for part in self.stream(request)]
        whole = b"".join(part.body for part in parts)
        first = parts[0]
        return WorkerAnswer(first.status, first.headers, whole, refusal=parts[-1].refusal)

    async def stream(self, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of the answer to a request; closing it takes the request back."""
        bounded = self.limits.most_work < float("inf")
        waiting = _Waiting(request, self._measure(request) if bounded else 0.0)
        self._queue.put_nowait(waiting)
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

    async def aclose(self) -> None:
        """End the batches; what waits gets no answer."""
        if self._batches:
            self._batches.cancel()
            await asyncio.wait([self._batches])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [each for each in await self._gather() if not each.left]
            if batch:
                await loop.run_in_executor(self._thread, self._run, batch, loop)

    def _run(self, batch: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Answer a batch, in the worker's thread."""

        def tell(number: int, answer: WorkerAnswer) -> None:
            loop.call_soon_threadsafe(batch[number].answers.put_nowait, answer)

        try:
            self._worker.answer([each.request for each in batch], tell)
        except Exception:
            logger.exception("A worker failed outside its handler.")
            for number in range(len(batch)):
                tell(number, FAILED)

    async def _gather(self) -> list[_Waiting]:
        """Return the requests of the next batch, at least one."""
        first = self._next or await self._queue.get()
        self._next = None
        batch, work = [first], first.work
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.delay_s):
                while len(batch) < self.limits.size:
                    found = await self._take()
                    if work + found.work > self.limits.most_work:
                        self._next = found
                        break
                    batch.append(found)
                    work += found.work
        return batch

    async def _take(self) -> _Waiting:
        """Return a request that waits, without a turn of the event loop where there is one."""
        return self._queue.get_nowait() if not self._queue.empty() else await self._queue.get()


async def describe(served: ServedModel) -> dict[str, Any]:
    """Return what a model says that it is, nothing where it says nothing."""
    answer = await served.answer(DESCRIBE)
    try:
        said = json.loads(answer.body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and not answer.refusal else {}
