"""One contract: TorchServe and the library in one process answer every request alike."""

import asyncio
from pathlib import Path

import pytest

from cluster.archives import Archive
from cluster.local import LocalEngine, load_store
from cluster.worker import ArchiveWorker
from gateway.settings import Settings
from gateway.torchserve.engine import TorchServeEngine
from support.contract import addresses, differences, good_requests, odd_requests
from trials.http_client import Request

Workers = dict[Archive, ArchiveWorker]
ODD_REQUESTS = 60


@pytest.fixture(scope="module")
def workers(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Workers:
    """Return the seven archives, loaded in this process."""
    return load_store(model_store, tmp_path_factory.mktemp("unpacked"))


def compare(settings: Settings, workers: Workers, requests: list[Request]) -> list[str]:
    """Return how TorchServe and the library differ."""

    async def run() -> list[str]:
        engines = TorchServeEngine(settings), LocalEngine(workers)
        try:
            return await differences(*engines, requests)
        finally:
            for engine in engines:
                await engine.aclose()

    return asyncio.run(run())


def test_good_requests(engine_settings: Settings, workers: Workers) -> None:
    assert compare(engine_settings, workers, good_requests()) == []


def test_addresses(engine_settings: Settings, workers: Workers) -> None:
    assert compare(engine_settings, workers, addresses()) == []


@pytest.mark.parametrize("seed", range(4))
def test_odd_requests(engine_settings: Settings, workers: Workers, seed: int) -> None:
    assert compare(engine_settings, workers, list(odd_requests(ODD_REQUESTS, seed))) == []
