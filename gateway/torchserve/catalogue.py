"""Which models a TorchServe has, what they are, and whether they are ready.

The management API says it. What a model is, its handler says, when TorchServe asks it to describe
itself; that is kept for as long as its workers live.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from gateway.engine import (
    Description,
    EngineError,
    Kind,
    Model,
    ModelNotFoundError,
    ModelVersion,
    UnavailableError,
)
from gateway.settings import Settings
from gateway.torchserve.client import TorchServeClient

PAGE = 1000
# How long a model that did not describe itself, as it was busy, is not asked again.
ASK_AGAIN_S = 10.0


class Catalogue:
    """What was learnt of the models, some seconds old at most."""

    def __init__(self, client: TorchServeClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._timeout_s = settings.torchserve.describe_timeout_s
        self._turn = asyncio.Lock()
        self._models: dict[str, Model] = {}
        self._read_s = float("-inf")
        self._refresh: asyncio.Task[None] | None = None
        self._described: dict[tuple[str, str], tuple[Any, Description]] = {}
        self._asked_s: dict[tuple[str, str], float] = {}

    async def models(self) -> list[Model]:
        """Return the models, by name; raises `EngineError` where TorchServe does not say."""
        async with self._turn:
            if self._is_old:
                self._models = {each.name: each for each in await self._read()}
                self._read_s = time.monotonic()
            return [self._models[name] for name in sorted(self._models)]

    async def model(self, name: str) -> Model:
        """Return a model; raises `ModelNotFoundError` where there is none of that name.

        One that is known is returned as it was, and looked up again beside: requests do not wait
        for the management API, and the engine itself refuses a model that has gone.
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
        return time.monotonic() - self._read_s > self._settings.models_refresh_s

    def _refresh_beside(self) -> None:
        if self._is_old and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._read_quietly())

    async def _read_quietly(self) -> None:
        # Who asks the engine next learns what is wrong with it.
        with suppress(EngineError):
            await self.models()

    async def _read(self) -> list[Model]:
        if not self._settings.torchserve.management_address:
            return await self._read_settings()
        names = await self._read_names()
        found = await asyncio.gather(*map(self._read_model, names))
        self._forget({each.name for each in found if each})
        return [each for each in found if each]

    async def _read_settings(self) -> list[Model]:
        """Return the models that the settings name, which are ready while TorchServe is."""
        try:
            async with await self._client.request("GET", b"/ping", [], None) as pong:
                ready = pong.status == HTTPStatus.OK
        except UnavailableError:
            ready = False
        return [
            Model(name, (), "", ready, Description(kind))
            for name, kind in self._settings.models.items()
        ]

    async def _read_names(self) -> list[str]:
        names: list[str] = []
        start: str | None = "0"
        while start is not None:
            page = await self._ask(f"/models?limit={PAGE}&next_page_token={start}")
            names += [each["modelName"] for each in page["models"]]
            start = page.get("nextPageToken")
        return names

    async def _read_model(self, name: str) -> Model | None:
        """Return a model, or None where it has gone meanwhile."""
        path = f"/models/{quote(name, safe='')}"
        try:
            states = await self._ask(f"{path}/all")
            default = states[0] if len(states) == 1 else (await self._ask(path))[0]
        except ModelNotFoundError:
            return None
        version = default["modelVersion"]
        ready = _is_ready(default)
        about = (
            await self._describe(name, version, default) if ready else self._known(name, version)
        )
        versions = tuple(ModelVersion(each["modelVersion"], _is_ready(each)) for each in states)
        return Model(name, versions, version, ready, about)

    async def _describe(self, name: str, version: str, state: Mapping[str, Any]) -> Description:
        """Return what a model is; its handler is asked once for each life of its workers."""
        key = (name, version)
        ready = [each for each in state["workers"] if each["status"] == "READY"]
        workers = [(each["id"], each["startTime"]) for each in ready]
        known = self._described.get(key)
        if known and known[0] == workers:
            return known[1]
        now_s = time.monotonic()
        if now_s - self._asked_s.get(key, float("-inf")) < ASK_AGAIN_S:
            return self._known(name, version)
        self._asked_s[key] = now_s
        path = f"/models/{quote(name, safe='')}/{quote(version, safe='')}?customized=true"
        try:
            (answer,) = await self._ask(path)
        except EngineError:
            return self._known(name, version)
        about = self._complete(name, read_description(answer.get("customizedMetadata")))
        self._described[key] = (workers, about)
        del self._asked_s[key]
        return about

    def _known(self, name: str, version: str) -> Description:
        """Return what was learnt before, else what the settings say."""
        known = self._described.get((name, version))
        return known[1] if known else self._complete(name, Description())

    def _complete(self, name: str, about: Description) -> Description:
        if about.kind is None and name in self._settings.models:
            return Description(self._settings.models[name])
        return about

    def _forget(self, names: set[str]) -> None:
        """Forget models that have gone."""
        for kept in (self._described, self._asked_s):
            for key in [key for key in kept if key[0] not in names]:
                del kept[key]

    async def _ask(self, path: str) -> Any:
        answer = await self._client.manage(path, self._timeout_s)
        return json.loads(answer.body)


def _is_ready(state: Mapping[str, Any]) -> bool:
    return any(worker["status"] == "READY" for worker in state["workers"])


def read_description(said: Any) -> Description:
    """Return what a handler says that its model is; other handlers say nothing that is known."""
    if not isinstance(said, Mapping) or said.get("kind") not in set(Kind):
        return Description()
    names = {field.name for field in fields(Description)}
    known = {key: _as_tuple(value) for key, value in said.items() if key in names}
    return Description(**(known | {"kind": Kind(said["kind"])}))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
