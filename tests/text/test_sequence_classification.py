"""A text's class: its answers, its targets and what is refused."""

import math
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.pipelines.text_classification import TextClassificationPipeline

from speechtext.errors import ImpossibleRequestError
from support.known_texts import (
    CLASSES,
    LOGITS,
    TEXT,
    Table,
    alike,
    answers,
    classifier,
    close,
    make_bert,
    make_predictor,
    pieces,
    refused_target,
    table,
    targets_of,
)


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        (None, 3, ["good", "bad", "bad"]),
        ("single_label_classification", 3, ["good", "bad", "bad"]),
        # A label holds from a probability of a half on.
        ("multi_label_classification", 3, [["bad", "good", "fair"], ["bad"], ["bad", "fair"]]),
        ("regression", 1, [0.5, close(0.1), 0.0]),
        ("regression", 2, [[0.5, 2.0], [close(0.1), -0.5], [0.0, -1.0]]),
        (None, 1, ["bad", "bad", "bad"]),
        ("multi_label_classification", 1, [["bad"], ["bad"], ["bad"]]),
    ],
)
def test_plain_classes_suit_the_models_problem(
    problem: str | None, labels: int, expected: list[Any]
) -> None:
    found = answers(classifier(problem, labels), "Ann works", "Bob works", "good")
    assert found == expected
    assert type(found[0]) is type(expected[0])


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", 3),
        ("multi_label_classification", 3),
        ("regression", 1),
        ("regression", 2),
        (None, 1),
        (None, 2),
    ],
)
def test_ranked_classes_are_the_pipelines(problem: str | None, labels: int) -> None:
    model = make_bert(BertForSequenceClassification, num_labels=labels, problem_type=problem)
    names = model.config.id2label
    predictor = make_predictor("sequence_classification", model, names, model.config)
    reference: Any = TextClassificationPipeline(model=model, tokenizer=pieces())
    texts: list[Any] = [TEXT, {"text": "who works in Paris", "text_pair": "Bob works ."}]
    for top_k in (1, None, 2):
        for function in (None, "sigmoid", "softmax", "none"):
            chosen = {} if function is None else {"function_to_apply": function}
            parameters: dict[str, Any] = {"top_k": top_k, **chosen}
            payloads = [{"inputs": text, "parameters": parameters} for text in texts]
            expected = [reference(text, **parameters) for text in texts]
            assert answers(predictor, *payloads) == alike(expected), parameters


def test_the_hub_client_gets_one_more_list_around_its_classes() -> None:
    predictor = classifier()
    payload = {"inputs": "Ann", "parameters": {"top_k": 2, "function_to_apply": "none"}}
    ranked = [{"label": "good", "score": 2.0}, {"label": "bad", "score": 0.5}]
    assert answers(predictor, payload) == [ranked]
    assert answers(predictor, payload, hub_client=True) == [[ranked]]


@pytest.mark.parametrize(
    ("asked", "index", "about"),
    [
        (None, 1, {}),
        (0, 0, {"prediction": "good"}),
        ("2", 2, {"prediction": "good"}),
        ("good", 1, {"prediction": "good"}),
    ],
)
def test_a_class_is_explained_by_name_or_index_else_the_predicted_one(
    asked: Any, index: int, about: dict[str, str]
) -> None:
    (target,) = targets_of(classifier(), {"text": "Ann works .", "target": asked})
    probability = float(torch.tensor(LOGITS["Ann"]).softmax(dim=0)[index])
    assert [*target.window.positions] == list(range(5))
    assert (target.head, target.logit_index, target.name) == (0, index, CLASSES[index])
    assert target.explained == [False, True, True, True, False]
    assert target.probability == close(probability)
    assert target.about == about


@pytest.mark.parametrize(
    ("problem", "labels", "probability"),
    [
        ("regression", 1, None),
        ("multi_label_classification", 3, 1 / (1 + math.exp(-0.5))),
        (None, 1, 1 / (1 + math.exp(-0.5))),
    ],
)
def test_a_class_that_is_explained_has_the_probability_of_its_problem(
    problem: str | None, labels: int, probability: float | None
) -> None:
    (target,) = targets_of(classifier(problem, labels), {"text": "Ann", "target": 0})
    assert target.probability == (None if probability is None else close(probability))


@pytest.mark.parametrize(("asked", "index"), [(1, 1), (0, 0), ("1", 0), ("2", 1), ("0", 0)])
def test_a_number_is_an_index_and_a_text_a_name_where_there_is_such(asked: Any, index: int) -> None:
    labels = {0: "1", 1: "2", 2: "fair"}
    network = Table(table(LOGITS, [0.0] * 3), first=True)
    predictor = make_predictor(
        "sequence_classification", network, labels, BertConfig(), captum_explanation=True
    )
    (target,) = targets_of(predictor, {"text": "Ann", "target": asked})
    assert (target.logit_index, target.name) == (index, labels[index])


@pytest.mark.parametrize("asked", [3, -1, "Good", "", [1], 1.5, True])
def test_a_class_that_a_model_does_not_have_is_refused(asked: Any) -> None:
    error = refused_target(classifier(), {"text": "Ann", "target": asked})
    assert isinstance(error, ImpossibleRequestError)
    assert error.kind == "UnknownTarget"
    assert error.message == f"Expected target to be one of {CLASSES}, by index or name."


@pytest.mark.parametrize("texts", [("Ann works .",), ("Ann works", ".")])
def test_what_is_read_of_a_text_that_is_cut_is_explained(texts: tuple[str, ...]) -> None:
    network = Table(table(LOGITS, [0.0] * 3), first=True)
    keys: dict[str, Any] = {"config": BertConfig(), "captum_explanation": True}
    frame = 1 + len(texts)
    short, fitting = (
        make_predictor("sequence_classification", network, CLASSES, positions=most, **keys)
        for most in (frame + 2, frame + 3)
    )
    payload = dict(zip(("text", "text_pair"), texts, strict=False))
    assert answers(short, payload) == answers(fitting, payload) == ["good"]
    for predictor, dropped in ((short, 1), (fitting, 0)):
        (target,) = targets_of(predictor, payload)
        assert target.window.dropped_tokens == dropped
