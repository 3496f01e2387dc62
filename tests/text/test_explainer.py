"""Explanations of several texts in one call, by the library: steps, metrics and what is told."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from repository import ROOT
from speechtext.errors import RequestError
from speechtext.text.explanation.explainer import TOP_WORDS
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings

DEMO = ROOT / "demo_models" / "bert_seq_classification"
MOST_STEPS = 64
TEXTS = (
    "The food was wonderful.",
    "I have never been so bored.",
    "Great",
    "It was neither good nor bad, and the room was cold and small.",
)


@pytest.fixture(scope="module")
def predictor() -> TextPredictor:
    settings = TextSettings(captum_explanation=True, max_explanation_steps=MOST_STEPS)
    return TextPredictor.load(DEMO, settings)


def explain(predictor: TextPredictor, *payloads: Any) -> list[Explanation]:
    found = predictor.explain([predictor.read(each, explain=True) for each in payloads])
    explanations = []
    for each in found:
        assert not isinstance(each, RequestError), each
        explanations.append(each)
    return explanations


def ask(text: str, **parameters: Any) -> dict[str, Any]:
    return {"text": text, "parameters": parameters}


def test_steps_are_doubled_for_those_that_need_more(predictor: TextPredictor) -> None:
    """Each text is explained in the fewest steps that keep its tolerance, as alone."""
    asked = [
        ask(text, n_steps=5, tolerance=tolerance)
        for text in TEXTS
        for tolerance in (0.5, 0.02, 0.002, 1e-9)
    ]
    together = explain(predictor, *asked)
    counts = set()
    for payload, found in zip(asked, together, strict=True):
        (alone,) = explain(predictor, payload)
        (told,) = found.explained
        assert told.n_steps == alone.n_steps
        assert told.importances == pytest.approx(alone.explained[0].importances, abs=1e-4)
        tolerance, steps = payload["parameters"]["tolerance"], 5
        while True:
            (plain,) = explain(predictor, ask(payload["text"], n_steps=steps))
            (given,) = plain.explained
            change = sum(given.importances) - given.delta
            if abs(given.delta) <= abs(change) * tolerance or steps == MOST_STEPS:
                break
            steps = min(2 * steps, MOST_STEPS)
        assert told.n_steps == steps
        assert told.delta == pytest.approx(given.delta, abs=1e-4)
        counts.add(steps)
    assert len(counts) > 2 and {5, MOST_STEPS} <= counts


def test_methods_without_steps_are_run_once(predictor: TextPredictor) -> None:
    for method in ("occlusion", "layer_gradient_x_activation"):
        payload = ask(TEXTS[0], method=method, tolerance=1e-9, n_steps=7)
        (found,) = explain(predictor, payload)
        assert found.n_steps != 7 * 2
        (plain,) = explain(predictor, ask(TEXTS[0], method=method))
        assert found.explained[0].importances == plain.explained[0].importances
        assert found.content()["method"] == method


@pytest.mark.parametrize("text", TEXTS)
def test_metrics_are_those_of_the_model_itself(predictor: TextPredictor, text: str) -> None:
    """ERASER's, computed with transformers: without the words that count most, and with them."""
    model = AutoModelForSequenceClassification.from_pretrained(DEMO).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    (found,) = explain(predictor, ask(text, metrics=True, granularity="word"))
    index, content = found.explained[0].target.logit_index, found.content()
    encoded = tokenizer(text, return_tensors="pt")
    sums = content["importances"]
    count = max(1, round(TOP_WORDS * len(sums)))
    top = set(sorted(range(len(sums)), key=lambda each: -sums[each])[:count])

    def logit(masked: set[int]) -> float:
        chosen = torch.tensor([[word in masked for word in encoded.word_ids()]])
        ids = encoded["input_ids"].masked_fill(chosen, tokenizer.pad_token_id)
        with torch.inference_mode():
            return float(model(**{**encoded, "input_ids": ids}).logits[0, index])

    whole, others = logit(set()), set(range(len(sums))) - top
    assert content["comprehensiveness"] == pytest.approx(whole - logit(top), abs=1e-4)
    assert content["sufficiency"] == pytest.approx(whole - logit(others), abs=1e-4)


def test_what_is_told_are_the_words_of_the_text(predictor: TextPredictor) -> None:
    words, tokens = explain(
        predictor, ask(TEXTS[3], granularity="word"), ask(TEXTS[3], granularity="token")
    )
    told = words.content()
    assert [TEXTS[3][start:end] for start, end in told["offsets"]] == told["words"]
    pieces = tokens.content()
    assert pieces["words"][0] == "[CLS]" and pieces["words"][-1] == "[SEP]"
    assert sum(told["importances"]) == pytest.approx(sum(pieces["importances"]), abs=1e-4)


def test_words_of_a_pair_are_those_of_either_text() -> None:
    settings = TextSettings(
        mode="question_answering", captum_explanation=True, max_explanation_steps=MOST_STEPS
    )
    predictor = TextPredictor.load(ROOT / "demo_models" / "bert_question_answering", settings)
    texts = ["Where does Ann live?", "Ann lives in Paris and Bob in Rome."]
    payload = {"question": texts[0], "context": texts[1]}
    (found,) = explain(predictor, {**payload, "parameters": {"granularity": "word", "n_steps": 5}})
    told = found.content()
    pieces = [
        texts[text][start:end]
        for text, (start, end) in zip(told["texts"], told["offsets"], strict=True)
    ]
    assert told["words"] == pieces
    assert pieces[:5] == ["Where", "does", "Ann", "live", "?"]
    assert pieces[5:] == ["Ann", "lives", "in", "Paris", "and", "Bob", "in", "Rome", "."]
    assert found.view().texts == texts
