"""What the documents of TorchServe's classic text handler name: targets, and request envelopes."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from repository import ROOT
from support.common import EXAMPLES
from trials.servers import run_server

QUESTION = json.loads((EXAMPLES / "question.json").read_text())
REVIEW = (EXAMPLES / "review_accepted.txt").read_text().strip()
ENTITIES = (EXAMPLES / "entities.txt").read_text().strip()
TEXT_MODELS = ["bert_seq_classification", "bert_question_answering"]


def explain(inference_url: str, model: str, payload: Any) -> dict[str, Any]:
    reply = httpx2.post(f"{inference_url}/explanations/{model}", json=payload, timeout=120)
    assert reply.status_code == 200, reply.text
    explanation: dict[str, Any] = reply.json()
    return explanation


def test_number_as_target_of_an_answer_means_the_answer(inference_url: str) -> None:
    plain = explain(inference_url, "bert_question_answering", QUESTION)
    assert explain(inference_url, "bert_question_answering", {**QUESTION, "target": 0}) == plain
    assert plain["answer"] == "Maria Rossi"


def test_number_as_target_of_a_continuation_means_nothing(inference_url: str) -> None:
    payload = {"text": "Once upon a time", "parameters": {"max_new_tokens": 2, "do_sample": False}}
    plain = explain(inference_url, "gpt2_text_generation", payload)
    assert explain(inference_url, "gpt2_text_generation", {**payload, "target": 1}) == plain
    assert len(plain["generated"]) == 2


def test_pair_of_indices_is_a_token_and_a_label(inference_url: str) -> None:
    """As JSON's list and as Python's tuple; tokens are counted as the answer's words are."""
    url = f"{inference_url}/explanations/bert_token_classification"
    as_list = explain(
        inference_url, "bert_token_classification", {"text": ENTITIES, "target": [1, 2]}
    )
    literal = httpx2.post(
        url,
        content=repr({"text": ENTITIES, "target": (1, 2)}),
        headers={"Content-Type": "text/plain"},
    )
    assert literal.json() == as_list
    config = json.loads((ROOT / "demo_models/bert_token_classification/config.json").read_text())
    labels = config["id2label"]
    assert (as_list["target"], as_list["word"]) == (labels["2"], as_list["words"][1])
    named = {"text": ENTITIES, "target": [as_list["words"][1], labels["2"]]}
    assert explain(inference_url, "bert_token_classification", named) == as_list


@pytest.mark.parametrize("target", [[99, 0], [1, 99], [-1, 0], [1], [1, 2, 3], [True, 1], {"a": 1}])
def test_other_targets_of_tokens_are_refused(inference_url: str, target: Any) -> None:
    url = f"{inference_url}/explanations/bert_token_classification"
    reply = httpx2.post(url, json={"text": ENTITIES, "target": target}, timeout=60)
    assert (reply.status_code, reply.json()["type"]) == (422, "UnknownTarget")


@pytest.mark.parametrize(
    ("accept", "content_type"), [("image/*", "image/png"), ("text/*;q=0.9, */*;q=0.1", "text/html")]
)
def test_range_of_media_types_is_read(inference_url: str, accept: str, content_type: str) -> None:
    url = f"{inference_url}/explanations/bert_seq_classification"
    headers = {"Accept": accept, "Content-Type": "text/plain"}
    reply = httpx2.post(url, content=REVIEW, headers=headers, timeout=60)
    assert reply.headers["content-type"].partition(";")[0] == content_type


@pytest.fixture(scope="module", params=["body", "json"])
def enveloped(request: pytest.FixtureRequest, model_store: Path) -> Iterator[tuple[str, str]]:
    """Return an envelope's name, and the address of a server that has it."""
    archives = [model_store / f"{name}.mar" for name in TEXT_MODELS]
    changes = {"service_envelope": request.param}
    with run_server(archives=archives, store=model_store, changes=changes) as server:
        yield request.param, server.properties["inference_address"]


def ask(address: str, kind: str, model: str, payload: Any) -> tuple[int, Any]:
    reply = httpx2.post(f"{address}/{kind}/{model}", json=payload, timeout=120)
    try:
        return reply.status_code, reply.json()
    except ValueError:
        return reply.status_code, reply.text


def test_envelopes_are_answered(enveloped: tuple[str, str]) -> None:
    envelope, address = enveloped
    pairs: list[tuple[str, Any, str]] = [
        ("bert_seq_classification", {"text": REVIEW}, "Accepted"),
        ("bert_seq_classification", {"data": REVIEW}, "Accepted"),
        ("bert_question_answering", QUESTION, "Maria Rossi"),
    ]
    for model, payload, answer in pairs:
        if envelope == "body":
            assert ask(address, "predictions", model, payload) == (200, answer)
        else:
            instances = {"instances": [payload, payload]}
            expected = {"predictions": [answer, answer]}
            assert ask(address, "predictions", model, instances) == (200, expected)


def test_enveloped_answers_say_what_they_are(enveloped: tuple[str, str]) -> None:
    """Plain texts that an envelope joins are JSON."""
    envelope, address = enveloped
    url = f"{address}/predictions/bert_seq_classification"
    payloads: list[Any] = [{"text": REVIEW}, {"text": 5}]
    for payload in payloads:
        reply = httpx2.post(
            url, json=payload if envelope == "body" else {"instances": [payload]}, timeout=60
        )
        plain = envelope == "body" and reply.status_code == 200
        expected = "text/plain; charset=utf-8" if plain else "application/json"
        assert reply.headers["content-type"] == expected
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_envelopes_are_explained(enveloped: tuple[str, str]) -> None:
    envelope, address = enveloped
    payload: Any = {"text": REVIEW, "target": 1}
    wrapped = payload if envelope == "body" else {"instances": [payload]}
    status, content = ask(address, "explanations", "bert_seq_classification", wrapped)
    explanation = content if envelope == "body" else content["predictions"][0]
    assert (status, explanation["words"][0], len(explanation["importances"])) == (
        200,
        "[CLS]",
        len(explanation["words"]),
    )


def test_requests_of_a_batch_keep_their_instances(enveloped: tuple[str, str]) -> None:
    """Requests of unlike many instances, good ones and bad ones, in one batch."""
    envelope, address = enveloped
    if envelope == "body":
        url = f"{address}/predictions/bert_seq_classification"
        plain = {"Content-Type": "text/plain"}
        assert httpx2.post(url, content=REVIEW, headers=plain).text == "Accepted"
        assert httpx2.post(url, json={"nothing": 1}).status_code == 400
        return
    encoded = {"b64": base64.b64encode(REVIEW.encode()).decode()}
    contents: list[Any] = [[REVIEW] * 3, [{"wrong": 1}], [encoded], [REVIEW, {"text": 5}]] * 4
    answers = _ask_together(f"{address}/predictions/bert_seq_classification", contents)
    for instances, (status, predictions) in zip(contents, answers, strict=True):
        bad = [each for each in instances if isinstance(each, dict) and "b64" not in each]
        assert status == (400 if bad else 200)
        assert len(predictions) == len(instances)
        for instance, prediction in zip(instances, predictions, strict=True):
            found = prediction["code"] if instance in bad else prediction
            assert found == (400 if instance in bad else "Accepted")


def _ask_together(url: str, contents: list[Any]) -> list[tuple[int, Any]]:
    async def send() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=120) as client:
            posts = (client.post(url, json={"instances": each}) for each in contents)
            return await asyncio.gather(*posts)

    return [(reply.status_code, reply.json()["predictions"]) for reply in asyncio.run(send())]
