"""What was learnt of an engine's models, some seconds old at most."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from gateway.engine import EngineError, Model, ModelNotFoundError


class KeptCatalogue:
    """Models, looked up with `read` when what is known of them is older than `refresh_s`."""

    def __init__(self, read: Callable[[], Awaitable[Sequence[Model]]], refresh_s: float) -> None:
        self._read = read
        self._refresh_s = refresh_s
        self._turn = asyncio.Lock()
        self._models: dict[str, Model] = {}
        self._read_s = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    async def models(self) -> list[Model]:
        """Return the models, by name; raises `EngineError` where the engine does not say."""
        async with self._turn:
            if self._is_old:
                self._models = {each.name: each for each in await self._read()}
                self._read_s = time.monotonic()
            return [self._models[name] for name in sorted(self._models)]

    async def models_now(self) -> list[Model]:
        """Return the models as they are now, however lately they were looked up."""
        self._read_s = float("-inf")
        return await self.models()

    async def model(self, name: str) -> Model:
        """Return a model; raises `ModelNotFoundError` where there is none of that name.

        One that is known is returned as it was, and looked up again beside: requests do not wait
        for that, and the engine itself refuses a model that has gone.
        """
        if name in self._models:
            self._refresh_beside()
        else:
            await self.models()
        if name not in self._models:
            raise ModelNotFoundError(
                "ModelNotFound", "Expected the name of a model that is served."
            )
        return self._models[name]

    async def aclose(self) -> None:
        """Stop looking models up."""
        if self._refresh:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    @property
    def _is_old(self) -> bool:
        return time.monotonic() - self._read_s > self._refresh_s

    def _refresh_beside(self) -> None:
        if self._is_old and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._read_quietly())

    async def _read_quietly(self) -> None:
        # Who asks the engine next learns what is wrong with it.
        with suppress(EngineError):
            await self.models()
