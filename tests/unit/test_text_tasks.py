"""Payloads of the text tasks, and the search for the best answer span."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from build_archives import ROOT
from device_io import RequestError, read_settings
from text_tasks import TASKS, TextSettings, TextTask, best_span


def make_task(mode: str, archive: str, **keys: Any) -> TextTask:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "demo_models" / archive, local_files_only=True)
    return TASKS[mode](tokenizer, TextSettings(mode=mode, **keys), {0: "no", 1: "yes"})


@pytest.fixture(scope="module")
def classification() -> TextTask:
    return make_task("sequence_classification", "bert_seq_classification", captum_explanation=True)


@pytest.fixture(scope="module")
def answering() -> TextTask:
    return make_task("question_answering", "bert_question_answering", max_length=64)


@settings(max_examples=300)
@given(st.data())
def test_best_span_equals_exhaustive_search(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 12))
    logits = st.lists(st.floats(-9, 9, width=32), min_size=tokens, max_size=tokens)
    starts, ends = (torch.tensor(data.draw(logits)) for _ in range(2))
    allowed = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any))
    longest = data.draw(st.integers(1, 5))
    start, end = best_span(starts, ends, torch.tensor(allowed), longest)
    assert allowed[start]
    assert allowed[end]
    assert start <= end < start + longest
    scores = [
        float(starts[i] + ends[j])
        for i in range(tokens)
        for j in range(i, min(i + longest, tokens))
        if allowed[i] and allowed[j]
    ]
    assert float(starts[start] + ends[end]) == max(scores)


def test_context_without_words_has_no_answer() -> None:
    with pytest.raises(RequestError, match="context"):
        best_span(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize(
    "payload", ["good", b"good", {"text": "good"}, b'{"text": "good"}', b"{'text': 'good'}"]
)
def test_text_comes_plain_or_in_an_object(classification: TextTask, payload: Any) -> None:
    assert classification.parse(payload, declared_json=False, explain=False).text == "good"


@pytest.mark.parametrize(
    "payload", [{}, {"text": 5}, {"text": " "}, {"text": None}, ["good"], 5, b"\xff"]
)
def test_payload_without_text_is_refused(classification: TextTask, payload: Any) -> None:
    with pytest.raises(RequestError) as caught:
        classification.parse(payload, declared_json=False, explain=False)
    assert caught.value.status == 400


@pytest.mark.parametrize("payload", ["plain", {"question": "who"}, {"context": "Ann"}, b"{broken"])
def test_question_needs_its_two_fields(answering: TextTask, payload: Any) -> None:
    with pytest.raises(RequestError) as caught:
        answering.parse(payload, declared_json=False, explain=False)
    assert caught.value.status == 400


def test_question_that_leaves_no_room_for_its_context_is_refused(answering: TextTask) -> None:
    payload = {"question": "who " * 100, "context": "Ann"}
    with pytest.raises(RequestError, match="at most 32 tokens in question, got 100") as caught:
        answering.parse(payload, declared_json=False, explain=False)
    assert caught.value.status == 413


@pytest.mark.parametrize("target", [1.5, [1], {"label": 1}])
def test_target_is_an_index_or_a_name(classification: TextTask, target: Any) -> None:
    with pytest.raises(RequestError) as caught:
        classification.parse({"text": "good", "target": target}, False, explain=True)
    assert caught.value.status == 422


def test_explanation_must_be_configured(answering: TextTask) -> None:
    with pytest.raises(RequestError) as caught:
        answering.parse({"question": "who", "context": "Ann"}, False, explain=True)
    assert caught.value.status == 422


def test_rows_encoded_elsewhere_get_the_tokenizers_segments(answering: TextTask) -> None:
    payloads = [
        {"question": "Who works?", "context": "Ann works in Paris."},
        {"question": "Where?", "context": "Paris."},
    ]
    examples = [answering.parse(payload, False, explain=False) for payload in payloads]
    encoded = answering.encode(examples)
    adopted = answering.adopt(*encoded)
    assert torch.equal(adopted.context_tokens, encoded.context_tokens)
    assert encoded.token_type_ids is not None
    assert adopted.token_type_ids is not None
    assert torch.equal(adopted.token_type_ids, encoded.token_type_ids)


@pytest.mark.parametrize(
    "handler", [{"mode": "translation"}, {"save_mode": "onnx"}, {"max_length": 1}]
)
def test_impossible_settings_stop_the_load(handler: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(handler))):
        read_settings(TextSettings, {"handler": handler}, "handler")


def test_answer_is_made_of_whole_words(answering: TextTask) -> None:
    context = "Vexomoria, the capital: Ljubljanagrad's harbour (Xyloport)."
    example = answering.parse({"question": "Where?", "context": context}, False, explain=False)
    batch = answering.encode([example])
    tokens = batch[0].shape[1]
    pieces = [index for index in range(tokens) if batch.context_tokens[0, index]]
    words = ["Vexomoria", ",", "the", "capital", ":", "Ljubljanagrad", "'", "s", "harbour"]
    words += ["(", "Xyloport", ")", "."]
    assert len(pieces) > len(words)
    answers = []
    for piece in pieces:
        head = torch.zeros(1, tokens).index_fill(1, torch.tensor([piece]), 9.0)
        answers += answering.decode((head, head), batch)
    assert list(dict.fromkeys(answers)) == words
