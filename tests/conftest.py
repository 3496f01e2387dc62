"""What the tests share: the seven archives, built once, unpacked, loaded and served."""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from archives.building import build_archive
from archives.configs import more_configs, read_configs
from archives.own_configs import demo_configs
from gateway.settings import Settings, parse_settings
from repository import ROOT
from serving.configuration import LOG_CONFIG
from serving.local import LocalModel, build_with_settings, load_archive
from support.common import LoadModel
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer, run_server

# `make test` runs two processes, each with servers of its own beside it.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2

# Fixtures of a running server as tests ask for them.
SHARED = re.compile(
    r"\b(search_)?server: TrialServer|\bgateway: RunningGateway|\bcluster: RunningCluster"
    r"|\b(inference|gateway)_url\b|\bengine_settings\b"
)
GPU_IDS = [None, 0] if torch.cuda.is_available() else [None]


class ByServer(LoadScopeScheduling):  # type: ignore[misc]
    """Runs the files that share a server in one process, and each other file in one of either.

    The groups of xdist 3.8 have no effect with pytest 9.2, as they are part of `Item._nodeid`.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "server" if shares_server(ROOT / file) else file


@cache
def shares_server(file: Path) -> bool:
    """Tell whether tests of a file ask for a server that others ask for, too."""
    return SHARED.search(file.read_text(encoding="utf-8")) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """Return who decides which process runs which tests."""
    return ByServer(config, log)


@pytest.fixture(autouse=True)
def _threads() -> None:
    """Let no model of an earlier test leave its threads: they would wait for each other's core."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """Let no process that the tests start reach the network, also where there is one.

    Hugging Face's client, which asks the servers here, is imported before this is set.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model store with the seven archives, as `make archive` builds them."""
    store = tmp_path_factory.mktemp("model_store")
    for config in demo_configs().values():
        build_archive(config, store, source=config.source, archive_format="default")
    return store


@pytest.fixture(scope="session")
def unpacked(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from an archive's name to the folder of its files."""

    @cache
    def unpack(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with zipfile.ZipFile(model_store / f"{name}.mar") as archive:
            archive.extractall(folder)
        return folder

    return unpack


@pytest.fixture(scope="session", params=GPU_IDS, ids=lambda gpu_id: f"gpu-{gpu_id}")
def load_model(request: pytest.FixtureRequest, unpacked: Callable[[str], Path]) -> LoadModel:
    """Return a function from an archive's name to its loaded model, on each device there is."""

    @cache
    def load(name: str) -> LocalModel:
        return load_archive(unpacked(name), request.param)

    return load


@pytest.fixture(scope="session")
def server(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a running server with the seven archives, as talkative as it can be."""
    log_config = tmp_path_factory.mktemp("logs") / "log4j2.xml"
    text = LOG_CONFIG.read_text(encoding="utf-8")
    for level in ("info", "warn"):
        text = text.replace(f'level="{level}"', 'level="all"')
    log_config.write_text(text, encoding="utf-8")
    archives = sorted(model_store.glob("*.mar"))
    with run_server(archives=archives, store=model_store, log_config=log_config) as running:
        yield running


@pytest.fixture(scope="session")
def inference_url(server: TrialServer) -> str:
    """Return the address of that server."""
    return server.properties["inference_address"]


@pytest.fixture(scope="session")
def search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a running server with the speech models as archives that search for hotwords.

    Without the extra `lm`, Wav2Vec2 is not one of them.
    """
    configs, store = read_configs(), tmp_path_factory.mktemp("searching")
    searches: dict[str, dict[str, Any]] = {"emformer_asr": {"beam_width": 4}}
    if find_spec("kenlm"):
        searches["wav2vec2"] = {"decoder": "beam"}
    archives = []
    for name, settings in searches.items():
        built = build_with_settings(configs[name], ROOT / configs[name].source, store, **settings)
        archives.append(built.rename(store / name))
    with run_server(archives=archives, store=store) as running:
        yield running


@pytest.fixture(scope="session")
def sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a running server with the archives that are served where they are named."""
    store = tmp_path_factory.mktemp("sounds")
    archives = [
        build_archive(each, store, archive_format="default") for each in more_configs().values()
    ]
    with run_server(archives=archives, store=store) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(
    server: TrialServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Return a running gateway before that server."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), server.properties) as running:
        yield running


@pytest.fixture(scope="session")
def gateway_url(gateway: RunningGateway) -> str:
    """Return the address of that gateway."""
    return gateway.url


@pytest.fixture(scope="session")
def engine_settings(server: TrialServer) -> Settings:
    """Return settings for an engine of one's own before that server."""
    addresses = ("inference_address", "management_address")
    return parse_settings({"torchserve": {name: server.properties[name] for name in addresses}})
