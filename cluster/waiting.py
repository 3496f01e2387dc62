"""Requests that wait for a replica."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gateway.engine import EngineError

# Returns the models that have a replica now that answers, or would get one for a request.
FindReady = Callable[[], Awaitable[Container[str]]]


class WaitingRequests:
    """Cancels the requests of models that no longer have a replica, or would get one.

    Ray lets a request wait for however long its model's next replica takes.
    """

    def __init__(self, find_ready: FindReady, interval_s: float) -> None:
        self._find_ready = find_ready
        self._interval_s = interval_s
        self._responses: dict[str, set[Any]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Stop looking at requests."""
        if self._watch:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    @contextmanager
    def watched(self, model: str, response: Any) -> Iterator[None]:
        """Cancel a request inside this block, as long as it is with no replica."""
        of_model = self._responses.setdefault(model, set())
        of_model.add(response)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            of_model.discard(response)
            if not of_model:
                self._responses.pop(model, None)

    async def _look(self) -> None:
        while self._responses:
            await asyncio.sleep(self._interval_s)
            # Where Ray does not say, nobody is refused.
            with suppress(EngineError):
                await self._cancel_lost()

    async def _cancel_lost(self) -> None:
        if not any(map(self._find_waiting, self._responses)):
            return
        ready = await self._find_ready()
        for model in self._responses:
            if model not in ready:
                for response in self._find_waiting(model):
                    response.cancel()

    def _find_waiting(self, model: str) -> list[Any]:
        # Ray has no other way to ask whether a replica has a request.
        responses = self._responses.get(model, ())
        return [each for each in responses if not each._replica_result_future.done()]
