"""What `python -m cluster config` prints, run by Ray's own command."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import websockets.sync.client
import yaml

from cluster.command import make_config, parse_arguments
from cluster.own_ray import ENVIRONMENT
from repository import ROOT
from support.common import EXAMPLES
from trials.gateways import free_port

MODELS = ("emformer_asr_live", "bert_seq_classification")
SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Return a folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        yield name


@contextmanager
def run_serve(config: Path, log_file: Path, folder: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `serve run` with a configuration while the block runs; what Ray writes is in `folder`."""
    own = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}
    environment = {**os.environ, **ENVIRONMENT, **own, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "ray.serve.scripts", "run", str(config)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)
    command = psutil.Process(process.pid)
    try:
        yield process
    finally:
        family = [command, *command.children(recursive=True)] if command.is_running() else []
        for each in family:
            each.terminate()
        _, alive = psutil.wait_procs(family, timeout=30)
        for each in alive:
            each.kill()


@pytest.fixture
def config(model_store: Path, tmp_path: Path) -> dict[str, Any]:
    """Return a configuration of two models, to serve on a free port of this machine."""
    words = ["config", "--model-store", str(model_store), *MODELS]
    config = make_config(parse_arguments(words))
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    return config


def test_configuration_is_served_by_rays_own_command(
    config: dict[str, Any], tmp_path: Path, short_folder: str
) -> None:
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{config['http_options']['port']}"
    log = tmp_path / "serve.log"
    with run_serve(tmp_path / "serve.yaml", log, short_folder) as process:
        wait_until_ready(f"http://{address}/readyz", process, log)
        url = f"http://{address}/v2/models/bert_seq_classification/infer"
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["It was great."]}
        reply = httpx2.post(url, json={"inputs": [tensor]}, timeout=60)
        assert reply.status_code == 200, reply.text
        assert "Accepted" in reply.json()["outputs"][0]["data"]
        with websockets.sync.client.connect(
            f"ws://{address}/live/emformer_asr_live?rate=16000"
        ) as it:
            for start in range(44, len(SPEECH), 5120):
                it.send(SPEECH[start : start + 5120])
            it.send(json.dumps({"type": "end"}))
            answers = [json.loads(each) for each in it]
        assert answers[-1]["text"] == "turn on the kitchen lights"


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 180
    while True:
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.3)
