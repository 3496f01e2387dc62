"""Archives and the gateway in one process, as a container runs them."""

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from archives.building import build_archive
from archives.own_configs import demo_configs
from repository import ROOT
from support.archives import write_archive
from support.one_process import RunningProcess, command_of, run_process

DEMO = "bert_seq_classification"
HANDLER = """
import time

SECONDS = {"short": 3, "hang": 9}


class Handler:
    def initialize(self, context):
        time.sleep(LOADING_S)
        self.initialized = True

    def handle(self, data, context):
        said = [bytes(row.get("body", b"")).decode() for row in data]
        time.sleep(max(SECONDS.get(text, 0) for text in said))
        return said
"""


def write_slow(store: Path, loading_s: float = 0.0, response_timeout_s: int = 3) -> None:
    """Put an archive into a store that is slow to load, and slow to answer where asked to be."""
    source = HANDLER.replace("LOADING_S", str(loading_s))
    write_archive(store / "slow", source, responseTimeout=response_timeout_s)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProcess]:
    """Return a process with a demo archive, and an unpacked one that is slow."""
    store = tmp_path_factory.mktemp("store")
    config = demo_configs()[DEMO]
    build_archive(config, store, source=config.source, archive_format="tgz")
    write_slow(store)
    with run_process(store, tmp_path_factory.mktemp("process")) as running:
        running.wait_for("/readyz", 200)
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for requests that take a while."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


def ask(process: RunningProcess, said: str) -> httpx2.Response:
    return httpx2.post(f"{process.url}/predictions/small", content=said.encode(), timeout=60)


def ask_meanwhile(
    pool: ThreadPoolExecutor, process: RunningProcess, said: str
) -> Future[httpx2.Response]:
    """Ask, and return once the request is there."""
    running = pool.submit(ask, process, said)
    time.sleep(0.5)
    return running


def test_every_archive_of_the_store_is_served(process: RunningProcess) -> None:
    ready = httpx2.get(f"{process.url}/readyz").json()
    assert ready == {"status": "ready", "models": [DEMO, "small"]}
    metadata = httpx2.get(f"{process.url}/v2/models/{DEMO}").json()
    assert (metadata["versions"], metadata["inputs"][0]["name"]) == (["1.0"], "text")


def test_every_protocol_answers(process: RunningProcess) -> None:
    texts = ["The food was great.", "The room was dirty and I want a refund."]
    labels = ["Accepted", "Not Accepted"]
    plain = [
        httpx2.post(f"{process.url}/predictions/{DEMO}", json={"text": text}).text for text in texts
    ]
    assert plain == labels
    v1 = f"{process.url}/v1/models/{DEMO}"
    predicted = httpx2.post(f"{v1}:predict", json={"instances": texts}).json()
    assert predicted == {"predictions": labels}
    (explained,) = httpx2.post(f"{v1}:explain", json={"instances": texts[1:]}).json()[
        "explanations"
    ]
    assert explained["target"] == "Not Accepted"
    assert len(explained["words"]) == len(explained["importances"])
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": texts}
    infer = f"{process.url}/v2/models/{DEMO}/infer"
    inferred = httpx2.post(infer, json={"inputs": [tensor]}).json()
    assert inferred["outputs"][0]["data"] == labels


def test_requests_that_come_together_are_in_the_metrics(
    process: RunningProcess, pool: ThreadPoolExecutor
) -> None:
    running = ask_meanwhile(pool, process, "short")
    metrics = httpx2.get(f"{process.url}/metrics").text
    # The request for the metrics is one, too.
    assert "\nhttp_requests_in_progress 2.0\n" in metrics
    assert running.result().text == "short"


def test_batch_that_hangs_fails_the_probes(
    process: RunningProcess, pool: ThreadPoolExecutor
) -> None:
    running = ask_meanwhile(pool, process, "hang")
    probes = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
    assert [process.status(path) for path in probes] == [200] * 4
    time.sleep(3)
    assert [process.status(path) for path in probes] == [503] * 4
    assert process.status("/v2/models/small/ready") == 503
    said = httpx2.get(f"{process.url}/livez").json()["message"]
    assert said == "Expected batches that end in time, got small."
    assert running.result().status_code == 200
    assert [process.status(path) for path in probes] == [200] * 4


def test_signal_lets_what_runs_end_and_leaves_nothing(
    process: RunningProcess, pool: ThreadPoolExecutor
) -> None:
    """Ends the process, and so is the last of its tests."""
    running = ask_meanwhile(pool, process, "short")
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.status("/livez") == 0
    assert (running.result().status_code, running.result().text) == (200, "short")
    assert process.process.wait(30) == 0
    assert list((process.log.parent / "temporary").glob("archives-*")) == []


def test_it_is_alive_but_not_ready_while_it_loads(tmp_path: Path) -> None:
    write_slow(tmp_path / "store", loading_s=60)
    with run_process(tmp_path / "store", tmp_path) as process:
        process.wait_for("/livez", 200)
        assert process.status("/readyz") == process.status("/v2/health/ready") == 503
        early = ask(process, "early")
        assert (early.status_code, early.json()["type"]) == (503, "NotReady")
        assert int(early.headers["retry-after"]) > 0
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(10) == 0


def test_batch_that_hangs_does_not_keep_the_process(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    write_slow(tmp_path / "store")
    with run_process(tmp_path / "store", tmp_path, shutdown_timeout_s=1.0) as process:
        process.wait_for("/readyz", 200)
        running = ask_meanwhile(pool, process, "hang")
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(7) == 0
        assert running.result().status_code == 500


def failed(*arguments: str) -> str:
    """Return what a process says that cannot serve."""
    done = subprocess.run(
        command_of(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_archive_that_is_none_ends_it_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.mar").write_bytes(b"no archive")
    said = failed("--model-store", str(tmp_path), "--port", "0")
    assert said == "error: broken.mar: expected a .mar or .tar.gz, got another file."


def test_handler_that_cannot_load_ends_it_with_a_sentence(tmp_path: Path) -> None:
    handler = HANDLER.replace("time.sleep(LOADING_S)", "raise ValueError('Expected\\n a file.')")
    write_archive(tmp_path / "small", handler)
    said = failed("--model-store", str(tmp_path), "--port", "0")
    assert said == "error: small: Expected a file."


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cluster": [1]}, "small.yaml: cluster: expected keys and values, got [1]."),
        ({"cluster": {"max_batch_work": 5}}, "small: tokenizer.json: expected a tokenizer, got: "),
    ],
)
def test_archive_that_cannot_be_added_ends_it_with_a_sentence(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    folder = write_archive(tmp_path / "small", HANDLER.replace("LOADING_S", "0"), **keys).folder
    (folder / "tokenizer.json").write_text("{}")
    said = failed("--model-store", str(tmp_path), "--port", "0")
    assert said.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nobody"], "error: Expected nobody in STORE, got small."),
        (["--model-store", "STORE/missing"], "error: Expected a model store, got no folder STORE/"),
        (["--model-store", "STORE/empty"], "error: Expected archives in STORE/empty, got none."),
        (
            ["--gateway-config", "STORE/gateway.yaml"],
            "error: gateway.yaml: port: input should",
        ),
    ],
)
def test_mistake_of_the_command_line_ends_it_with_a_sentence(
    tmp_path: Path, names: list[str], message: str
) -> None:
    write_archive(tmp_path / "small", HANDLER.replace("LOADING_S", "0"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "gateway.yaml").write_text("port: many\n")
    given = [each.replace("STORE", str(tmp_path)) for each in names]
    said = failed("--model-store", str(tmp_path), *given)
    assert said.startswith(message.replace("STORE", str(tmp_path)))
