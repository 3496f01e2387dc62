"""The text tasks of the page beside what the handlers say themselves."""

from typing import Any

import httpx2
import pytest

from support.browser import Browser
from support.page_actions import form_of, submit

GENERATION, QUESTIONS = "gpt2_text_generation", "bert_question_answering"
SEQUENCE, TOKENS = "bert_seq_classification", "bert_token_classification"


def answer_of(url: str, model: str, content: Any, path: str = "predictions") -> Any:
    """Return what the handler says itself."""
    return httpx2.post(f"{url}/{path}/{model}", json=content, timeout=60).json()


def test_labels_have_their_scores(page: Browser, gateway_url: str) -> None:
    text = "The room was dirty and I want a refund."
    form = submit(page, "sequence_classification", text=text)
    page.find(f"{form} .labels li")
    said = answer_of(gateway_url, SEQUENCE, {"inputs": text, "parameters": {"top_k": None}})
    assert page.texts(f"{form} .labels li") == [
        f"{each['label']}{each['score'] * 100:.1f} %" for each in said
    ]
    widths = page.run(
        "return Array.from(document.querySelectorAll(arguments[0]),"
        "(bar) => parseFloat(getComputedStyle(bar).backgroundSize) / 100)",
        f"{form} .bar",
    )
    assert widths == pytest.approx([each["score"] for each in said], abs=0.01)


def test_names_are_marked_where_they_stand(page: Browser, gateway_url: str) -> None:
    # Python counts an emoji as one character, JavaScript as two.
    text = "🦥 🦥 Maria Rossi works for Acme in Paris."
    form = submit(page, "token_classification", text=text)
    page.find(f"{form} mark")
    parameters = {"aggregation_strategy": "simple"}
    said = answer_of(gateway_url, TOKENS, {"inputs": text, "parameters": parameters})
    assert "Maria Rossi" in [text[each["start"] : each["end"]] for each in said]
    assert page.texts(f"{form} mark") == [
        f"{text[each['start'] : each['end']]}\u00a0{each['entity_group']}" for each in said
    ]
    for each in said:
        text = text.replace(each["word"], f"{each['word']}\u00a0{each['entity_group']}", 1)
    assert page.texts(f"{form} .marked") == [text]


def test_answer_is_marked_in_its_context(page: Browser, gateway_url: str) -> None:
    asked = {"context": "🦥 Tom Baker lives in Oslo.", "question": "Who lives in Oslo?"}
    form = submit(page, "question_answering", **asked)
    page.find(f"{form} mark")
    said = answer_of(gateway_url, QUESTIONS, {"inputs": asked})
    assert page.text(f"{form} .answer") == f"{said['answer']} {said['score'] * 100:.1f} %"
    assert page.texts(f"{form} mark") == [f"{said['answer']}\u00a0answer"]


def test_story_comes_token_by_token(page: Browser, gateway_url: str) -> None:
    form = form_of("text_generation")
    page.write(f'{form} [name="max_new_tokens"]', "12")
    submit(page, "text_generation", text="Once upon a time")
    ended = page.wait_for_text(f"{form} [data-answer] .state")
    parameters = {"max_new_tokens": 12, "do_sample": False}
    (said,) = answer_of(
        gateway_url, GENERATION, {"inputs": "Once upon a time", "parameters": parameters}
    )
    assert page.text(f"{form} .story") == said["generated_text"]
    assert ended == "12 tokens (as many as asked for)"
    # A text node for each token, as it came.
    nodes = page.run(
        "return document.querySelector(arguments[0]).childNodes.length",
        f"{form} .story span:last-child",
    )
    assert nodes == 12


HEATS: dict[str, tuple[str, dict[str, Any]]] = {
    "sequence_classification": (SEQUENCE, {"text": "The room was dirty."}),
    "token_classification": (TOKENS, {"text": "Maria works for Acme."}),
    "question_answering": (
        QUESTIONS,
        {"question": "Who works for Acme?", "context": "Maria works for Acme."},
    ),
    "text_generation": (GENERATION, {"text": "Once upon a time"}),
}


def importances_of(said: dict[str, Any]) -> list[list[float]]:
    if "entities" in said:
        return [each["importances"] for each in said["entities"]]
    if "generated" in said:
        return list(said["importances"])
    if "importances" in said:
        return [said["importances"]]
    return [said["importances_answer_start"], said["importances_answer_end"]]


@pytest.mark.parametrize("kind", HEATS)
def test_explanation_has_each_word_and_its_number(
    page: Browser, gateway_url: str, kind: str
) -> None:
    model, content = HEATS[kind]
    form = form_of(kind)
    for name, text in content.items():
        page.write(f'{form} [name="{name}"]', text)
    parameters: dict[str, Any] = {"granularity": "word"}
    if kind == "text_generation":
        page.write(f'{form} [name="max_new_tokens"]', "2")
        parameters["max_new_tokens"] = 2
    page.click(f"{form} [data-explain]")
    page.find(f"{form} .heat")
    said = answer_of(gateway_url, model, content | {"parameters": parameters}, "explanations")
    rows = importances_of(said)
    assert len(rows) == len(page.find_all(f"{form} .heat"))
    words = [word.lstrip("Ġ") for word in said["words"]] * len(rows)
    assert page.texts(f"{form} .heat li span") == words
    shown = [float(each.replace("\u2212", "-")) for each in page.texts(f"{form} .heat small")]
    assert shown == pytest.approx([each for row in rows for each in row], abs=0.006)
    strengths = page.run(
        "return Array.from(document.querySelectorAll(arguments[0]),"
        "(each) => Number(each.style.getPropertyValue('--strength')))",
        f"{form} .heat li",
    )
    expected = [abs(each) / max(map(abs, row)) for row in rows for each in row]
    assert strengths == pytest.approx(expected, abs=0.01)


def test_text_that_is_refused_is_told_in_the_words_of_the_server(
    page: Browser, gateway_url: str
) -> None:
    asked = {"question": "who " * 300, "context": "Nobody."}
    form = submit(page, "question_answering", **asked)
    said = answer_of(gateway_url, QUESTIONS, {"inputs": asked})
    assert said["code"] == 413
    assert page.wait_for_text(f"{form} > .error") == said["message"]
