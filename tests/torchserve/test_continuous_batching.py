"""Calls of continuous batching: prompts join those that are being continued, and none notices."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from archives.configs import read_configs
from benchmarks.random_text_models import write_random_model
from cluster.archives import open_archive
from cluster.local import load_worker
from cluster.requests import WorkerAnswer, WorkerRequest
from cluster.worker import ArchiveWorker
from serving.local import build_with_settings
from speechtext.allowance import took_too_long
from support.common import LoadModel, lines

ARCHIVE = "gpt2_text_generation"
LOGPROB = re.compile(r'"logprob": (-?[0-9.e-]+)')
PREDICT, EXPLAIN = ("explain", "False"), ("explain", "True")
PARAMETERS: list[dict[str, Any]] = [
    {"max_new_tokens": 40, "seed": 1},
    {"max_new_tokens": 3, "seed": 1},
    {"max_new_tokens": 25, "do_sample": True, "seed": 5, "temperature": 1.3},
    {"max_new_tokens": 30, "stream": True, "seed": 1},
    {"max_new_tokens": 12, "repetition_penalty": 1.8, "details": True, "seed": 1},
    {"max_new_tokens": 9, "stream": True, "top_k": 20, "seed": 2, "top_n_tokens": 2},
    {"max_new_tokens": 20, "stop": ["o"], "seed": 1},
]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> ArchiveWorker:
    """Return the worker of a tiny model of random weights, which never ends by itself."""
    workspace = tmp_path_factory.mktemp("continuous")
    folder = write_random_model(workspace / "model", "gpt2", "text_generation")
    keys: dict[str, Any] = {"captum_explanation": True, "n_steps": 3, "do_sample": False}
    archive = build_with_settings(read_configs()[ARCHIVE], folder, workspace, **keys)
    return load_worker(open_archive(archive, workspace))


def ask(content: Any, kind: tuple[str, str] = PREDICT) -> WorkerRequest:
    body = json.dumps(content).encode()
    return WorkerRequest([("Content-Type", "application/json"), kind], body)


def prompts(count: int) -> list[WorkerRequest]:
    return [
        ask({"inputs": text, "parameters": PARAMETERS[index % len(PARAMETERS)]})
        for index, text in enumerate(lines(count, 15))
    ]


Heard = dict[int, list[WorkerAnswer]]


def call(worker: ArchiveWorker, open_: dict[int, WorkerRequest], heard: Heard) -> None:
    """Call the worker once; those whose answer is whole are open no more."""

    def hear(number: int, answer: WorkerAnswer) -> None:
        heard[number].append(answer)
        if not answer.more:
            del open_[number]

    worker.advance(dict(open_), hear)


def alone(worker: ArchiveWorker, request: WorkerRequest) -> tuple[int, bytes]:
    heard: list[WorkerAnswer] = []
    worker.answer([request], lambda _, answer: heard.append(answer))
    return heard[0].status, b"".join(each.body for each in heard)


def whole(answers: Sequence[WorkerAnswer]) -> tuple[int, bytes]:
    return answers[0].status, b"".join(each.body for each in answers)


def assert_alike(found: tuple[int, bytes], expected: tuple[int, bytes]) -> None:
    """Compare answers; log-probabilities by value, the last digits of which follow the batch."""
    texts = [text.decode() for _, text in (found, expected)]
    assert found[0] == expected[0] == 200
    assert len({LOGPROB.sub("", text) for text in texts}) == 1
    found_values, expected_values = (list(map(float, LOGPROB.findall(text))) for text in texts)
    assert found_values == pytest.approx(expected_values, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_answer_is_that_of_the_prompt_alone(worker: ArchiveWorker, seed: int) -> None:
    requests = prompts(42)
    waiting = dict(enumerate(requests))
    open_: dict[int, WorkerRequest] = {}
    heard: Heard = defaultdict(list)
    chance, largest = random.Random(seed), 0
    while waiting or open_:
        for number in list(waiting)[: chance.randint(0, 2)]:
            open_[number] = waiting.pop(number)
        largest = max(largest, len(open_))
        if open_:
            call(worker, open_, heard)
    assert largest > 3
    for number, request in enumerate(requests):
        assert_alike(whole(heard[number]), alone(worker, request))


def test_short_text_ends_while_a_long_one_goes_on(worker: ArchiveWorker) -> None:
    long = ask({"inputs": "kalo", "parameters": {"max_new_tokens": 100, "stream": True, "seed": 1}})
    short = ask({"inputs": "miren", "parameters": {"max_new_tokens": 3}})
    open_, heard = {0: long}, defaultdict[int, list[WorkerAnswer]](list)
    call(worker, open_, heard)
    open_[1] = short
    calls = 0
    while 1 in open_:
        call(worker, open_, heard)
        calls += 1
    # A token a call where somebody reads along, and one call for the end of an answer.
    assert calls == 4
    assert len(heard[0]) == 4
    while open_:
        call(worker, open_, heard)
    assert_alike(whole(heard[1]), alone(worker, short))
    assert_alike(whole(heard[0]), alone(worker, long))
    assert len(heard[0]) > 90


def test_tokens_of_a_stream_come_as_they_are_made(worker: ArchiveWorker) -> None:
    request = ask({"inputs": "kalo", "parameters": {"max_new_tokens": 6, "stream": True}})
    open_, heard = {0: request}, defaultdict[int, list[WorkerAnswer]](list)
    while open_:
        call(worker, open_, heard)
    assert [each.body.count(b"data:") for each in heard[0]] == [1] * 6
    assert dict(heard[0][0].headers)["content-type"] == "text/event-stream"


@pytest.mark.parametrize("new_tokens", [1, 6])
def test_stream_tells_at_first_what_its_prompt_lost(worker: ArchiveWorker, new_tokens: int) -> None:
    """Joined to others, and as whole batches are answered."""
    asked = {"max_new_tokens": new_tokens, "stream": True}
    requests = [
        ask({"inputs": "kalo " * 400, "parameters": asked | each})
        for each in ({}, {"stream": False})
    ]
    open_, joined = dict(enumerate(requests)), defaultdict[int, list[WorkerAnswer]](list)
    while open_:
        call(worker, open_, joined)
    heard: Heard = defaultdict(list)
    worker.answer(requests, lambda number, answer: heard[number].append(answer))
    for told in (joined, heard):
        stream, whole_ = (
            {name.lower(): value for name, value in told[number][0].headers} for number in (0, 1)
        )
        assert int(stream["x-truncated-tokens"]) > 100
        assert stream["x-truncated-tokens"] == whole_["x-truncated-tokens"]


def test_what_is_answered_at_once_is_answered_beside_texts(worker: ArchiveWorker) -> None:
    """Errors, explanations and the question what the model is, each whole, in the first call."""
    text = ask({"inputs": "kalo", "parameters": {"max_new_tokens": 30}})
    others: Mapping[int, tuple[int, WorkerRequest]] = {
        1: (400, ask([1])),
        2: (422, ask({"inputs": "a", "parameters": {"max_new_tokens": 0}})),
        3: (200, ask({"inputs": "kalo", "parameters": {"max_new_tokens": 2}}, EXPLAIN)),
        4: (200, WorkerRequest([("describe", "True")], b"")),
    }
    open_: dict[int, WorkerRequest] = {0: text}
    heard: Heard = defaultdict(list)
    call(worker, open_, heard)
    open_ |= {number: request for number, (_, request) in others.items()}
    call(worker, open_, heard)
    for number, (status, _) in others.items():
        first = heard[number][0]
        assert first.status == status
        assert json.loads(first.body)
    assert json.loads(heard[3][0].body)["generated"]
    assert json.loads(heard[4][0].body)["kind"] == "text_generation"
    while open_:
        call(worker, open_, heard)
    assert_alike(whole(heard[0]), alone(worker, text))
    assert all(whole(heard[number])[1] == heard[number][0].body for number in others)


@pytest.mark.parametrize(
    ("error", "status"), [(torch.OutOfMemoryError(), 507), (took_too_long(60), 503)]
)
def test_explanation_that_fails_takes_no_text_of_the_same_call_with_it(
    worker: ArchiveWorker, error: Exception, status: int
) -> None:
    """The text goes on, once, and nothing of it stays behind."""
    text = ask({"inputs": "kalo", "parameters": {"max_new_tokens": 8, "seed": 1}})
    expected = alone(worker, text)
    handler: Any = worker._service._entry_point.__self__
    rows: list[int] = []

    def fail(_: Any, __: Any, given: dict[str, Any]) -> None:
        rows.append(len(given["input_ids"]))
        if torch.is_grad_enabled():
            raise error

    explained = ask({"inputs": "miren", "parameters": {"max_new_tokens": 1}}, EXPLAIN)
    open_, heard = {0: text, 1: explained}, defaultdict[int, list[WorkerAnswer]](list)
    hook = handler.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        while open_:
            call(worker, open_, heard)
    finally:
        hook.remove()
    assert heard[1][0].status == status
    assert_alike(whole(heard[0]), expected)
    # One token of what is explained, its text that fails, and the eight of the other.
    assert rows[-8:] == [1] * 8
    assert handler._continuous._texts._texts == []


def test_text_nobody_waits_for_is_forgotten(worker: ArchiveWorker) -> None:
    """TorchServe leaves out a request whose client has gone; its number may come again."""
    texts = prompts(3)
    open_, heard = dict(enumerate(texts)), defaultdict[int, list[WorkerAnswer]](list)
    call(worker, open_, heard)
    open_.pop(0)
    sizes: list[int] = []
    model: Any = worker._service._entry_point.__self__.model
    hook = model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    call(worker, open_, heard)
    hook.remove()
    assert set(sizes) <= {1, 2}
    open_[0] = texts[1]
    heard[0].clear()
    while open_:
        call(worker, open_, heard)
    for number, text in ((0, texts[1]), (1, texts[1]), (2, texts[2])):
        assert_alike(whole(heard[number]), alone(worker, text))


def test_only_generation_goes_on_token_by_token(load_model: LoadModel, tmp_path: Path) -> None:
    config = read_configs()["bert_seq_classification"]
    keys = {"continuousBatching": True}
    source = Path("demo_models/bert_seq_classification").resolve()
    archive = build_with_settings(config, source, tmp_path, keys)
    with pytest.raises(ValueError, match="continuousBatching: expected false, as only text"):
        load_worker(open_archive(archive, tmp_path))
