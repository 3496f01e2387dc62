"""Requests that wait for a replica."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gateway.engine import EngineError

# Returns the models that have a replica now that answers, or would get one for a request.
FindReady = Callable[[], Awaitable[Container[str]]]


class WaitingRequests:
    """Cancels the requests of models that have no replica any more, and would get none for them.

    Ray lets a request wait for however long its model's next replica takes.
    """

    def __init__(self, find_ready: FindReady, interval_s: float) -> None:
        self._find_ready = find_ready
        self._interval_s = interval_s
        # The models that Ray's responses are of.
        self._models: dict[Any, str] = {}
        self._watch: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Stop looking at requests."""
        if self._watch:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    @contextmanager
    def watched(self, model: str, response: Any) -> Iterator[None]:
        """Cancel a request inside this block, as long as it is with no replica."""
        self._models[response] = model
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            del self._models[response]

    async def _look(self) -> None:
        while self._models:
            await asyncio.sleep(self._interval_s)
            # Where Ray does not say, nobody is refused.
            with suppress(EngineError):
                await self._cancel_lost()

    async def _cancel_lost(self) -> None:
        if not self._find_waiting():
            return
        ready = await self._find_ready()
        for response in self._find_waiting():
            if self._models[response] not in ready:
                response.cancel()

    def _find_waiting(self) -> list[Any]:
        # Ray has no other way to ask whether a replica has a request.
        return [each for each in self._models if not each._replica_result_future.done()]
