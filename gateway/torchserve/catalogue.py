"""Which models a TorchServe has, what they are, and whether they are ready.

The management API says it. A model's handler says what the model is, when TorchServe asks it to
describe itself; that is kept for as long as its workers live.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from gateway.contract.catalogue import KeptCatalogue
from gateway.contract.descriptions import read_description
from gateway.engine import (
    Description,
    EngineError,
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


class TorchServeCatalogue(KeptCatalogue):
    """The models of a TorchServe."""

    def __init__(self, client: TorchServeClient, settings: Settings) -> None:
        super().__init__(self._read_server, settings.models_refresh_s)
        self._client = client
        self._settings = settings
        self._timeout_s = settings.torchserve.describe_timeout_s
        self._described: dict[tuple[str, str], tuple[Any, Description]] = {}
        self._asked_s: dict[tuple[str, str], float] = {}

    async def _read_server(self) -> list[Model]:
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
        if state.get("continuousBatching") and not state.get("stateful"):
            # TorchServe 0.12 would put the question to such a model again and again, for ever.
            return self._known(name, version)
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
