"""Text models on a real TorchServe, asked as users of Hugging Face ask."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoTokenizer

from repository import ROOT
from support.common import EXAMPLES

QUESTION = json.loads((EXAMPLES / "question.json").read_text())
REVIEW = (EXAMPLES / "review_accepted.txt").read_text().strip()
ENTITIES = (EXAMPLES / "entities.txt").read_text().strip()
PROMPT = (EXAMPLES / "prompt.txt").read_text().strip()
TOKENIZER: Any = AutoTokenizer.from_pretrained(ROOT / "demo_models" / "gpt2_text_generation")
LONG_PROMPTS = [f"{PROMPT} " * count for count in (1, 3, 8)]


def post(url: str, payload: Any, **headers: str) -> httpx2.Response:
    return httpx2.post(url, json=payload, headers=headers, timeout=120)


def client(inference_url: str, archive: str) -> InferenceClient:
    return InferenceClient(model=f"{inference_url}/predictions/{archive}")


def test_hub_client_classifies(inference_url: str) -> None:
    hub = client(inference_url, "bert_seq_classification")
    (best,) = hub.text_classification(REVIEW)
    assert (best.label, best.score > 0.9) == ("Accepted", True)
    every = hub.text_classification(REVIEW, top_k=2, function_to_apply="sigmoid")
    assert [each.label for each in every] == ["Accepted", "Not Accepted"]


def test_hub_client_finds_entities(inference_url: str) -> None:
    hub = client(inference_url, "bert_token_classification")
    found = hub.token_classification(ENTITIES, aggregation_strategy="simple", stride=8)
    named = [(each.entity_group, ENTITIES[each.start : each.end]) for each in found]
    assert named == [("PER", "Maria Rossi"), ("ORG", "Acme"), ("LOC", "Paris")]
    tokens = hub.token_classification(ENTITIES)
    assert {each.entity for each in tokens} == {"B-PER", "I-PER", "B-ORG", "B-LOC", "I-LOC"}


def test_hub_client_answers_questions(inference_url: str) -> None:
    hub = client(inference_url, "bert_question_answering")
    answer: Any = hub.question_answering(**QUESTION)
    assert answer.answer == "Maria Rossi" == QUESTION["context"][answer.start : answer.end]
    best: Any = hub.question_answering(**QUESTION, top_k=3, max_answer_len=5)
    assert len(best) == 3
    assert best[0].answer == "Maria Rossi"


def test_hub_client_generates(inference_url: str) -> None:
    hub = client(inference_url, "gpt2_text_generation")
    whole = hub.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)
    pieces = list(hub.text_generation(PROMPT, max_new_tokens=12, stream=True))
    assert len(pieces) == 12
    assert "".join(pieces) == whole
    told: Any = hub.text_generation(PROMPT, max_new_tokens=12, return_full_text=False, details=True)
    assert told.generated_text == whole == "".join(token.text for token in told.details.tokens)
    assert (told.details.finish_reason, told.details.generated_tokens) == ("length", 12)
    last: Any = list(hub.text_generation(PROMPT, max_new_tokens=3, stream=True, details=True))[-1]
    assert last.details.input_length == len(TOKENIZER(PROMPT)["input_ids"])
    with pytest.raises(HfHubHTTPError, match="max_new_tokens"):
        hub.text_generation(PROMPT, max_new_tokens=100_000)


def read_stream(url: str, prompt: str, tokens: int) -> tuple[list[dict[str, Any]], float]:
    """Return a stream's events, and which part of the time they were there before its end."""
    payload = {"inputs": prompt, "parameters": {"max_new_tokens": tokens, "stream": True}}
    with httpx2.stream("POST", url, json=payload, timeout=120) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        started_s = time.monotonic()
        lines = [(line, time.monotonic() - started_s) for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data:")) for line, _ in lines]
    return events, lines[0][1] / lines[-1][1]


def test_streams_of_one_batch_are_each_their_own(inference_url: str) -> None:
    url = f"{inference_url}/predictions/gpt2_text_generation"
    wanted = [(prompt, tokens) for prompt in LONG_PROMPTS for tokens in (5, 30)]
    alone = [
        post(url, {"inputs": prompt, "parameters": {"max_new_tokens": tokens}}).json()
        for prompt, tokens in wanted
    ]
    with ThreadPoolExecutor(len(wanted) + 2) as pool:
        plain = [pool.submit(post, url, {"text": PROMPT}) for _ in range(2)]
        streams = list(pool.map(lambda each: read_stream(url, *each), wanted))
    for (prompt, tokens), (events, _), whole in zip(wanted, streams, alone, strict=True):
        assert len(events) == tokens
        text = "".join(event["token"]["text"] for event in events)
        assert [{"generated_text": prompt + text}] == whole
        assert events[-1]["generated_text"] == text
    assert {future.result().status_code for future in plain} == {200}
    assert all(future.result().text.startswith(PROMPT) for future in plain)


def test_tokens_come_before_the_end(inference_url: str) -> None:
    url = f"{inference_url}/predictions/gpt2_text_generation"
    events, part = read_stream(url, PROMPT, 100)
    assert len(events) > 30
    assert events[-1]["details"]["finish_reason"] == "eos_token"
    assert part < 0.5


def test_forms_of_a_payload(inference_url: str) -> None:
    url = f"{inference_url}/predictions/bert_question_answering"
    literal = str(QUESTION).encode()
    assert literal.startswith(b"{'")
    for answer in (
        post(url, QUESTION),
        httpx2.post(url, content=literal, headers={"Content-Type": "text/plain"}),
        httpx2.post(url, content=literal, headers={"Content-Type": "application/json"}),
        httpx2.post(url, data={"data": json.dumps(QUESTION)}),
        httpx2.post(url, files={"data": json.dumps(QUESTION).encode()}),
    ):
        assert (answer.status_code, answer.text) == (200, "Maria Rossi")
    found = post(url, {"inputs": QUESTION}).json()
    assert list(found) == ["score", "start", "end", "answer"]


def test_truncated_text_is_reported(inference_url: str) -> None:
    url = f"{inference_url}/predictions/bert_seq_classification"
    text = f"{REVIEW} " * 1000
    assert len(text) > 50_000
    reply = post(url, {"text": text})
    assert (reply.status_code, reply.text) == (200, "Accepted")
    assert int(reply.headers["X-Truncated-Tokens"]) > 5_000
    assert "X-Truncated-Tokens" not in post(url, {"text": REVIEW}).headers


def test_long_texts_are_read_to_their_end(inference_url: str) -> None:
    """A hundred kilobytes, and what is looked for in the last of them."""
    filler = "The room was small and the soup was cold. " * 2_400
    answer = post(
        f"{inference_url}/predictions/bert_token_classification",
        {"inputs": filler + ENTITIES, "parameters": {"aggregation_strategy": "first"}},
    ).json()
    text = filler + ENTITIES
    assert len(text) > 100_000
    last = [(each["entity_group"], text[each["start"] : each["end"]]) for each in answer[-3:]]
    assert last == [("PER", "Maria Rossi"), ("ORG", "Acme"), ("LOC", "Paris")]


@pytest.mark.parametrize(
    ("payload", "status", "said"),
    [
        ({"inputs": ["a", "b"]}, 422, "inputs to be one text or object"),
        ({"inputs": "a", "parameters": {"top_k": "all"}}, 422, "top_k"),
        ({"inputs": {"txt": "a"}}, 400, "inputs"),
        ({"inputs": "a", "parameters": {"colour": 1}}, 422, "top_k, function_to_apply"),
    ],
)
def test_errors_name_what_to_change(
    inference_url: str, payload: Any, status: int, said: str
) -> None:
    reply = post(f"{inference_url}/predictions/bert_seq_classification", payload)
    assert reply.status_code == status
    assert said in reply.json()["message"]


def test_explanations_come_as_pages_and_pictures(inference_url: str) -> None:
    url = f"{inference_url}/explanations/bert_seq_classification"
    page = post(url, {"text": REVIEW}, Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert all(word in page.text for word in ("Accepted", "probability", "wonderful"))
    picture = post(url, {"text": REVIEW}, Accept="image/png")
    assert (picture.headers["content-type"], picture.content[:4]) == ("image/png", b"\x89PNG")
    assert post(url, {"text": REVIEW}, Accept="*/*").json()["target"] == "Accepted"


def test_explanations_and_predictions_share_batches(inference_url: str) -> None:
    """Sent at once, each gets what it gets alone; one with a target that is none fails alone."""
    payloads = [{"text": REVIEW}, {"text": "The room was dirty.", "target": "Accepted"}]
    payloads.append({"text": REVIEW, "target": "Nonsense"})
    wanted = [
        (f"{inference_url}/{kind}/bert_seq_classification", payload)
        for payload in payloads
        for kind in ("predictions", "explanations")
    ]
    alone = [post(*each) for each in wanted]
    assert [reply.status_code for reply in alone] == [200, 200, 200, 200, 200, 422]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda each: post(*each), wanted * 4))
    for reply, expected in zip(together, alone * 4, strict=True):
        assert reply.status_code == expected.status_code
        if not expected.text.startswith("{") or reply.status_code != 200:
            assert reply.text == expected.text
        else:
            found, right = reply.json(), expected.json()
            assert found["words"] == right["words"]
            assert found["importances"] == pytest.approx(right["importances"], abs=1e-4)
