"""Continuous batching in a real TorchServe: a long text holds nobody up, and statuses stay true."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import httpx2
import pytest

from archives.configs import read_configs
from benchmarks.random_text_models import write_random_model
from serving.local import build_with_settings
from support.common import lines
from support.waiting import until
from trials.servers import TrialServer, run_server

ARCHIVE = "gpt2_text_generation"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Serve a tiny model of random weights, which never ends by itself, with the key."""
    workspace = tmp_path_factory.mktemp("continuous")
    folder = write_random_model(workspace / "model", "gpt2", "text_generation")
    keys = {"continuousBatching": True}
    config = read_configs()[ARCHIVE]
    archive = build_with_settings(config, folder, workspace, keys, do_sample=False)
    with run_server(archives=[archive], store=archive.parent) as running:
        yield running


@pytest.fixture
def client(server: TrialServer) -> Iterator[httpx2.Client]:
    """Return a client that keeps its connections."""
    host, port = server.address
    with httpx2.Client(base_url=f"http://{host}:{port}", timeout=TIMEOUT_S) as client:
        yield client


def read(client: httpx2.Client, content: Any, path: str = "predictions") -> tuple[int, Any]:
    response = client.post(f"/{path}/{ARCHIVE}", json=content)
    return response.status_code, response.json()


@contextmanager
def long_stream(client: httpx2.Client) -> Iterator[Iterator[str]]:
    """Begin a stream of 110 tokens, and give its lines once the first is there."""
    content = prompt("kalo", max_new_tokens=110, stream=True)
    with client.stream("POST", f"/predictions/{ARCHIVE}", json=content) as stream:
        lines_ = filter(None, stream.iter_lines())
        assert json.loads(next(lines_).removeprefix("data:"))["index"] == 1
        yield lines_


def prompt(text: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": text, "parameters": parameters}


def test_many_at_once_get_what_they_get_alone(client: httpx2.Client) -> None:
    asked = [
        prompt(text, max_new_tokens=3 + 7 * (number % 5), do_sample=number % 2 == 0, seed=number)
        for number, text in enumerate(lines(40, 12))
    ]
    alone = [read(client, each) for each in asked]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(partial(read, client), asked)) == alone
    assert {status for status, _ in alone} == {200}


def test_short_text_is_answered_while_a_long_one_goes_on(client: httpx2.Client) -> None:
    with long_stream(client) as stream:
        assert read(client, prompt("miren", max_new_tokens=2))[0] == 200
        rest = list(stream)
    # What came while nobody read is together in what is read.
    assert len(rest) == 109
    assert read(client, prompt("miren", max_new_tokens=2))[0] == 200


def test_errors_have_their_statuses_and_bodies(client: httpx2.Client) -> None:
    with long_stream(client) as stream:
        for content, status, said in (
            ([1], 400, "a JSON list"),
            (prompt("a", max_new_tokens=0), 422, "max_new_tokens"),
        ):
            found, answer = read(client, content)
            assert (found, answer["code"]) == (status, status)
            assert said in answer["message"]
        found, answer = read(client, {"text": "kalo miren"}, "explanations")
        assert (found, bool(answer["generated"])) == (200, True)
        assert len(list(stream)) == 109


def test_reader_who_leaves_holds_up_nobody(client: httpx2.Client) -> None:
    # A batch has eight.
    for _ in range(12):
        with long_stream(client):
            pass
    assert read(client, prompt("miren", max_new_tokens=2))[0] == 200


def test_log_has_a_line_for_each_answer_and_none_for_each_token(
    server: TrialServer, client: httpx2.Client
) -> None:
    log = server.folder / "logs" / "torchserve.log"
    before = log.read_text(encoding="utf-8")

    def added() -> list[str]:
        return log.read_text(encoding="utf-8").removeprefix(before).splitlines()

    assert read(client, prompt("kalo", max_new_tokens=100))[0] == 200
    until(lambda: any('"tokens_out"' in each for each in added()))
    (line,) = (json.loads(each[each.index("{") :]) for each in added() if "request_id" in each)
    assert (line["status"], line["tokens_out"]) == (200, 100)
    assert line["model_ms"] > 0
    assert len(added()) < 6


def test_worker_that_dies_leaves_nobody_waiting(server: TrialServer, client: httpx2.Client) -> None:
    asked = [prompt("kalo", max_new_tokens=120, top_p=0.9, seed=number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool, long_stream(client) as stream:
        answers = pool.map(lambda each: client.post(f"/predictions/{ARCHIVE}", json=each), asked)
        server.workers()[ARCHIVE].kill()
        statuses = {answer.status_code for answer in answers}
        with suppress(httpx2.TransportError):
            list(stream)
    assert statuses <= {200, 500, 503, 507}
    assert statuses & {500, 503, 507}
