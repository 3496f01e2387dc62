"""Starting, refusing and stopping: what a person at a terminal meets."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx2
import psutil
import pytest

from archives.configs import read_configs
from archives.errors import BuildError
from repository import HANDLER_FOLDER, ROOT
from serving.archives_server import serve_archives, stop_serving
from serving.configuration import free_properties, read_properties
from serving.errors import ServerError
from serving.examples import try_example
from serving.gateway import find_gateway
from serving.status import wait_until_ready
from serving.torchserve import find_server, server_environment, start_server, stop_server
from support.common import EXAMPLES, START_TIMEOUT_S, write_free_config, write_free_gateway

BIN = Path(sys.executable).parent


def test_server_starts_answers_and_leaves_no_process(model_store: Path, tmp_path: Path) -> None:
    properties = free_properties()
    record = start_server(tmp_path, model_store, ["bert_seq_classification.mar"], properties)
    lines: list[str] = []
    try:
        wait_until_ready(tmp_path, ["bert_seq_classification"], START_TIMEOUT_S, lines.append)
        assert find_server(tmp_path) == record
        processes = [psutil.Process(record.pid)]
        processes += processes[0].children(recursive=True)
        assert len(processes) >= 3
        assert_models_cannot_be_removed(record.management_url)
    finally:
        assert stop_server(tmp_path)
    assert lines[-1] == "bert_seq_classification: ready, 1 of 1"
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert not Path(record.temporary_folder).exists()
    assert find_server(tmp_path) is None
    assert not stop_server(tmp_path)


def assert_models_cannot_be_removed(management_url: str) -> None:
    url = f"{management_url}/models/bert_seq_classification"
    assert httpx2.get(url).status_code == 200
    assert httpx2.delete(url).status_code == 405


MISTAKE = (
    "^broken: model-config.yaml: handler.mode: expected one of sequence_classification, "
    "token_classification, question_answering, text_generation, got 'translation'.$"
)


def test_worker_that_cannot_load_says_why_and_nothing_is_left(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    config = read_configs()["bert_seq_classification"]
    yaml = tmp_path / "model-config.yaml"
    yaml.write_text("handler: {mode: translation}\n")
    files = f"{HANDLER_FOLDER},{ROOT / config.source / 'config.json'}"
    archive("broken", "transformers_handler.py", store, files, yaml)
    folder = tmp_path / "server"
    record = start_server(folder, store, ["broken.mar"], free_properties())
    first = psutil.Process(record.pid)
    try:
        with pytest.raises(ServerError, match=MISTAKE):
            wait_until_ready(folder, ["broken"], START_TIMEOUT_S, print)
        others = first.children(recursive=True)
        assert others
        first.kill()
        first.wait()
    finally:
        assert stop_server(folder)
    assert psutil.wait_procs(others, timeout=1)[1] == []
    assert not Path(record.temporary_folder).exists()


def archive(
    name: str, handler: str, store: Path, extra_files: str, config: Path | None = None, *more: str
) -> None:
    """Package by hand, with the command line that TorchServe's documents show."""
    command = [str(BIN / "torch-model-archiver"), "--model-name", name, "--version", "1.0"]
    command += ["--handler", str(HANDLER_FOLDER / handler), "--extra-files", extra_files]
    command += ["--export-path", str(store), *more]
    command += ["--config-file", str(config)] if config else []
    # The archiver deletes the folder of the model's name in the temporary folder.
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(command, check=True, env={**os.environ, "TMPDIR": temporary})


def test_port_in_use_is_named(tmp_path: Path) -> None:
    properties = free_properties()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(properties["grpc_inference_port"])))
        taken.listen()
        with pytest.raises(ServerError, match="grpc_inference_port"):
            start_server(tmp_path, tmp_path, [], properties)
    assert find_server(tmp_path) is None


def test_make_serve_answers_and_says_when_it_is_up_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    properties = write_free_config(tmp_path / "free.properties")
    # One of them wants headers of its own with its example.
    names = ["bert_question_answering", "emformer_asr_live"]
    gateway = write_free_gateway(tmp_path / "free.yaml")
    config = tmp_path / "free.properties"
    serve = partial(serve_archives, names, tmp_path, config, gateway_config=gateway)
    try:
        # One in each of two terminals: the later one waits, and finds the server of the first.
        with ThreadPoolExecutor(2) as terminals:
            for served in [terminals.submit(serve) for _ in range(2)]:
                served.result()
        said = capsys.readouterr().out
        assert said.count("Starting TorchServe ...\n") == 1
        assert said.count("A server is up already") == 1
        url = f"{properties['inference_address']}/predictions/bert_question_answering"
        assert f"$ curl -X POST {url} -H 'Content-Type: application/json' -T examples/" in said
        assert "question.json\nMaria Rossi\n" in said
        assert '"final": "turn on the kitchen lights"' in said
        server = find_server(tmp_path)
        serve()
        assert find_server(tmp_path) == server
        assert capsys.readouterr().out.startswith("A server is up already")
    finally:
        assert stop_serving(tmp_path)
    assert find_gateway(tmp_path) is None


def test_make_serve_without_room_says_how_much_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_free_config(tmp_path / "free.properties")
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(BuildError, match=r"Expected \d+ MB of free disk space in .*, got 0 MB"):
        serve_archives(
            ["bert_question_answering"],
            tmp_path,
            tmp_path / "free.properties",
            gateway_config=write_free_gateway(tmp_path / "free.yaml"),
        )
    assert find_server(tmp_path) is None


def test_example_without_an_answer_is_an_error_in_one_sentence() -> None:
    with pytest.raises(ServerError, match=r"^wav2vec2 does not answer: .+$"):
        try_example(read_configs()["wav2vec2"], "http://127.0.0.1:9", {}, None)


def test_every_address_is_loopback() -> None:
    properties = read_properties()
    addresses = [value for key, value in properties.items() if key.endswith("address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)
    assert properties["enable_model_api"] == "false"


def test_torchserve_serves_the_archives_alone(model_store: Path, tmp_path: Path) -> None:
    """As in TorchServe's own documents, from a folder that holds the archives and nothing else."""
    properties = write_free_config(tmp_path / "config.properties")
    store = tmp_path / "model_store"
    store.mkdir()
    shutil.copy(model_store / "bert_question_answering.mar", store)
    shutil.copy(model_store / "wav2vec2.mar", store)
    temporary_folder = tmp_path / "tmp"
    temporary_folder.mkdir()
    environment = server_environment(tmp_path, str(temporary_folder))
    command = [str(BIN / "torchserve"), "--start", "--ncs", "--model-store", "model_store"]
    command += ["--models", "all", "--ts-config", "config.properties"]
    with (tmp_path / "out.log").open("wb") as log:
        subprocess.run(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, check=True)
    try:
        url = f"{properties['inference_address']}/predictions/wav2vec2"
        wait_for_answer(url, (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes())
    finally:
        subprocess.run(
            [str(BIN / "torchserve"), "--stop", "--foreground"], env=environment, cwd=tmp_path
        )


def wait_for_answer(url: str, body: bytes) -> None:
    """Ask until the model is there; TorchServe answers 404 or 503, or not at all, before."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    headers = {"Content-Type": "audio/wav"}
    while True:
        try:
            response = httpx2.post(url, content=body, headers=headers, timeout=60)
            response.raise_for_status()
        except httpx2.HTTPError:
            assert time.monotonic() < deadline_s
            time.sleep(1)
        else:
            assert response.content == b"TURN ON THE KITCHEN LIGHTS"
            return


def test_make_names_an_unsuitable_python(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": "/bin/false"}
    result = subprocess.run(
        ["sh", str(ROOT / "scripts" / "bootstrap.sh"), str(tmp_path / "venv")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "expected Python 3.11 to 3.13" in result.stderr
    assert not (tmp_path / "venv").exists()
