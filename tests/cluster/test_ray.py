"""The same archives on Ray, behind the gateway: the contract, other protocols, what goes wrong."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import websockets.sync.client
import yaml
from openai import OpenAI

from gateway.settings import Settings, parse_settings
from gateway.torchserve.engine import TorchServeEngine
from repository import ROOT
from support.archives import write_archive
from support.common import EXAMPLES
from support.contract import differences, good_requests, odd_requests
from trials.clusters import RunningCluster, run_cluster
from trials.http_client import Request
from trials.load import wait_for

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
MODELS = ("wav2vec2", "emformer_asr_live", "gpt2_text_generation")
SAID = "turn on the kitchen lights"
ODD_REQUESTS = 400
# Loads once it may.
PATIENT = """
import pathlib
import time

FOLDER = pathlib.Path("HERE")


class Handler:
    def initialize(self, context):
        (FOLDER / "loading").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.05)
        self.initialized = True

    def handle(self, data, context):
        return ["anew"] * len(data)
"""


@pytest.fixture(scope="module")
def cluster(
    model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster]:
    """Return a running cluster."""
    with run_cluster(model_store, tmp_path_factory.mktemp("cluster"), MODELS) as running:
        yield running


def metrics_address(cluster: RunningCluster) -> str:
    """Return where Ray shows metrics, as the command says."""
    (address,) = re.findall("^Metrics at (.+)$", cluster.log.read_text(), re.MULTILINE)
    return str(address)


def of_models(requests: list[Request]) -> list[Request]:
    """Return the requests to models that the cluster has."""
    return [each for each in requests if each.target.split("/")[2] in MODELS]


def compare(cluster: RunningCluster, settings: Settings, requests: list[Request]) -> list[str]:
    """Return how TorchServe and the cluster differ."""
    there = {"inference_address": cluster.url, "management_address": None}

    async def run() -> list[str]:
        engines = [
            TorchServeEngine(settings),
            TorchServeEngine(parse_settings({"torchserve": there})),
        ]
        try:
            return await differences(engines[0], engines[1], requests)
        finally:
            for engine in engines:
                await engine.aclose()

    return asyncio.run(run())


def test_good_requests(cluster: RunningCluster, engine_settings: Settings) -> None:
    assert compare(cluster, engine_settings, of_models(good_requests())) == []


def test_odd_requests(cluster: RunningCluster, engine_settings: Settings) -> None:
    requests = of_models(list(odd_requests(ODD_REQUESTS, 7)))
    assert len(requests) > 100
    assert compare(cluster, engine_settings, requests) == []


def test_metrics_of_handlers_are_rays(cluster: RunningCluster) -> None:
    """Under the names that TorchServe shows, in small letters, by model and status."""

    def counted(name: str, **labels: str) -> float:
        shown = httpx2.get(metrics_address(cluster), timeout=60).text
        lines = [line for line in shown.splitlines() if line.startswith(f"ray_{name}{{")]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in lines if all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    address, wav2vec2 = f"{cluster.url}/predictions/wav2vec2", {"ModelName": "wav2vec2"}

    def refuse_and_wait() -> None:
        """Return once what was counted until now is shown."""
        known = counted("answers_total", Status="415", **wav2vec2)
        assert httpx2.post(address, content=b"no recording", timeout=60).status_code == 415
        assert wait_for(lambda: counted("answers_total", Status="415", **wav2vec2) > known, 60)

    refuse_and_wait()
    answers = counted("answers_total", Status="200", **wav2vec2)
    audio_s = counted("audio_seconds_total", **wav2vec2)
    for _ in range(3):
        assert httpx2.post(address, content=SPEECH, timeout=60).status_code == 200
    refuse_and_wait()
    assert counted("answers_total", Status="200", **wav2vec2) == answers + 3
    more_s = counted("audio_seconds_total", **wav2vec2) - audio_s
    assert more_s == pytest.approx(3 * len(SPEECH) / 32_000, rel=0.01)
    assert counted("batch_size", application="wav2vec2", **wav2vec2) == 1
    assert counted("model_milliseconds_total", application="wav2vec2", **wav2vec2) > 0


def test_models_are_known_and_described(cluster: RunningCluster) -> None:
    listed = httpx2.get(f"{cluster.url}/v1/models", timeout=60).json()
    assert {each["name"]: each["ready"] for each in listed["data"]} == dict.fromkeys(MODELS, True)
    metadata = httpx2.get(f"{cluster.url}/v2/models/wav2vec2", timeout=60).json()
    assert metadata["versions"] == ["1.0"]
    assert httpx2.get(f"{cluster.url}/ping", timeout=60).json() == {"status": "Healthy"}


def test_openais_client(cluster: RunningCluster) -> None:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as client:
        heard = client.audio.transcriptions.create(model="wav2vec2", file=("a.wav", SPEECH))
        assert heard.text.lower() == SAID
        stream = client.completions.create(
            model="gpt2_text_generation", prompt="Once upon", max_tokens=5, stream=True
        )
        assert len(list(stream)) > 3


def test_live_speech(cluster: RunningCluster) -> None:
    address = f"{cluster.url.replace('http', 'ws')}/live/emformer_asr_live?rate=16000"
    with websockets.sync.client.connect(address) as socket:
        samples = SPEECH[44:]
        for start in range(0, len(samples), 5120):
            socket.send(samples[start : start + 5120])
        socket.send(json.dumps({"type": "end"}))
        answers = [json.loads(each) for each in socket]
    assert answers[-1]["text"] == SAID
    assert any(each["partial"] for each in answers)


def test_many_requests_at_once(cluster: RunningCluster) -> None:
    url = f"{cluster.url}/predictions/wav2vec2"
    bodies = [SPEECH, b"no audio"] * 12
    with ThreadPoolExecutor(len(bodies)) as pool:
        replies = list(pool.map(lambda body: httpx2.post(url, content=body, timeout=120), bodies))
    assert [each.status_code for each in replies] == [200, 415] * 12
    assert {each.text.lower() for each in replies[::2]} == {SAID}


def replicas(cluster: RunningCluster, model: str) -> list[psutil.Process]:
    """Return the processes of a model's replicas, by the title that Ray gives them."""
    return [
        each
        for each in psutil.Process(cluster.process.pid).children(recursive=True)
        if f"ServeReplica:{model}:" in " ".join(each.cmdline())
    ]


def test_replica_that_dies_is_replaced_and_requests_learn_of_it(cluster: RunningCluster) -> None:
    # Which takes some seconds.
    asked = {"text": "Great", "parameters": {"n_steps": 500}}
    work = f"{cluster.url}/explanations/gpt2_text_generation"
    url = f"{cluster.url}/predictions/gpt2_text_generation"
    story = {"inputs": "Once upon", "parameters": {"max_new_tokens": 5}}
    (replica,) = replicas(cluster, "gpt2_text_generation")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx2.post, work, json=asked, timeout=120)
        time.sleep(1)
        os.kill(replica.pid, signal.SIGKILL)
        lost = running.result()
    assert (lost.status_code, lost.json()["message"]) == (507, "Worker died.")
    deadline_s = time.monotonic() + 120
    statuses = set()
    while (status := httpx2.post(url, json=story, timeout=120).status_code) != 200:
        statuses.add(status)
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
    assert statuses <= {503, 507}


def deploy(cluster: RunningCluster, folder: Path, name: str, **options: Any) -> None:
    """Let Ray's own command deploy an application by the options of its model."""
    path = "cluster.application:build_model"
    application = {"name": name, "route_prefix": None, "import_path": path, "args": options}
    (folder / "serve.yaml").write_text(yaml.safe_dump({"applications": [application]}))
    family = psutil.Process(cluster.process.pid).children(recursive=True)
    raylet = next(each for each in family if each.name() == "raylet")
    (address,) = (
        word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address=")
    )
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(folder / "serve.yaml")]
    command += ["--address", address, "--non-blocking"]
    # Ray's token is known to its processes alone.
    subprocess.run(command, cwd=ROOT, env=raylet.environ(), capture_output=True, check=True)


def test_model_that_is_deployed_anew_answers_or_refuses(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """It is known all the time: Ray tells nothing of it while it is built."""
    archive = write_archive(tmp_path / "small", PATIENT.replace("HERE", str(tmp_path))).folder
    statuses = []

    def ask(version: str) -> httpx2.Response:
        address = f"{cluster.url}/predictions/wav2vec2/{version}"
        return httpx2.post(address, content=SPEECH, timeout=5)

    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(deploy, cluster, tmp_path, "wav2vec2", archive=str(archive))
        deadline_s = time.monotonic() + 120
        while not (tmp_path / "loading").exists():
            assert time.monotonic() < deadline_s
            statuses.append(ask("1.0").status_code)
            time.sleep(0.3)
            if deploying.done():
                deploying.result()
        deploying.result()
    assert (statuses[0], set(statuses) - {200, 503}) == (200, set())
    refused = ask("1.0")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["message"] == "Expected a replica of the model, got none. Try again."
    (tmp_path / "go").touch()
    assert wait_for(lambda: ask("2.1").text == "anew", 60)


def test_nothing_is_left_behind(cluster: RunningCluster) -> None:
    """Ends the cluster, and so is the last of these tests."""
    family = psutil.Process(cluster.process.pid).children(recursive=True)
    assert len(family) > 4
    cluster.process.send_signal(signal.SIGINT)
    assert cluster.process.wait(60) == 0, cluster.log.read_text()[-3000:]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [each.name() for each in alive] == []
