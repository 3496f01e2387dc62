"""Each family of models is loaded, asked and explained, and answers as transformers does."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from benchmarks.random_text_models import KINDS, write_random_model
from support.common import (
    TRACED,
    answers,
    as_json,
    assert_alike,
    lines,
    load_text_model,
    pipeline_rows,
)

GENERATING = ["gpt2", "opt", "llama", "qwen2"]
UNDERSTANDING = [kind for kind in KINDS if kind not in GENERATING]
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@pytest.mark.parametrize("family", UNDERSTANDING)
def test_family_classifies_texts(family: str, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", family, "sequence_classification", num_labels=3)
    model = load_text_model(folder, tmp_path, captum_explanation=True, n_steps=5)
    texts = lines(20)
    reference: Any = pipeline("text-classification", str(folder))
    found = answers(model, pipeline_rows(texts, top_k=3))
    assert_alike(found, reference(texts, top_k=3))
    reply = model.answer([{"body": texts[0]}], [{"explain": "True"}])[0]
    assert reply.status == 200
    tokens = reference.tokenizer(texts[0])["input_ids"]
    assert reply.answer["words"] == reference.tokenizer.convert_ids_to_tokens(tokens)
    assert sum(map(abs, reply.answer["importances"])) > 0


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("family", UNDERSTANDING)
def test_family_finds_entities(family: str, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", family, "token_classification", id2label=LABELS)
    model = load_text_model(
        folder, tmp_path, mode="token_classification", captum_explanation=True, n_steps=5
    )
    texts = lines(20)
    reference = pipeline("token-classification", str(folder))
    for strategy in ("none", "simple", "first", "average", "max"):
        found = answers(model, pipeline_rows(texts, aggregation_strategy=strategy))
        expected = [reference(text, aggregation_strategy=strategy) for text in texts]
        assert_alike(found, [[as_json(each) for each in row] for row in expected])
    reply = model.answer([{"body": texts[0]}], [{"explain": "True"}])[0]
    assert reply.status == 200
    found = answers(model, pipeline_rows(texts[:1], aggregation_strategy="simple"))[0]
    assert [each["word"] for each in reply.answer["entities"]] == [each["word"] for each in found]


@pytest.mark.parametrize("family", UNDERSTANDING)
def test_family_answers_questions(family: str, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", family, "question_answering")
    model = load_text_model(
        folder, tmp_path, mode="question_answering", captum_explanation=True, n_steps=5
    )
    asked = [
        {"question": question, "context": context}
        for question, context in zip(lines(10, 4), lines(10, 40, seed=2), strict=True)
    ]
    for payload, answer in zip(asked, answers(model, pipeline_rows(asked)), strict=True):
        start, end = answer["start"], answer["end"]
        assert answer["answer"] == payload["context"][start:end]
        assert answer["answer"]
        assert 0 < answer["score"] <= 1
    alone = [answers(model, [row])[0] for row in pipeline_rows(asked)]
    assert_alike(answers(model, pipeline_rows(asked)), alone)
    assert model.answer([{"body": asked[0]}], [{"explain": "True"}])[0].status == 200


@pytest.mark.parametrize("family", GENERATING)
def test_family_goes_on_from_prompts(family: str, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", family, "text_generation")
    options: dict[str, Any] = {"do_sample": False, "captum_explanation": True, "n_steps": 5}
    model = load_text_model(folder, tmp_path, mode="text_generation", **options)
    prompts = lines(12, 6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder)
    # Not the pipeline "text-generation", which decodes the new tokens without those before them and
    # so loses the space in front of a first word.
    for prompt, found in zip(
        prompts, answers(model, pipeline_rows(prompts, max_new_tokens=12)), strict=True
    ):
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = reference.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
        expected = tokenizer.decode(tokens[0], skip_special_tokens=True)
        assert found == [{"generated_text": expected}]
    payload = {"text": prompts[0], "parameters": {"max_new_tokens": 3}}
    reply = model.answer([{"body": payload}], [{"explain": "True"}])[0]
    inputs = tokenizer(prompts[0], return_tensors="pt")
    ids = inputs["input_ids"]
    made = reference.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)
    new_tokens = tokenizer.convert_ids_to_tokens(made[0, ids.shape[1] :])
    assert reply.answer["generated"] == new_tokens
    assert {len(row) for row in reply.answer["importances"]} == {ids.shape[1]}


@pytest.mark.parametrize("save_mode", TRACED)
@pytest.mark.parametrize("family", UNDERSTANDING)
def test_traced_and_pretrained_agree(family: str, save_mode: str, tmp_path: Path) -> None:
    """All ways to save a model give the same numbers, for rows of any number and length."""
    folder = write_random_model(tmp_path / "model", family, "sequence_classification", num_labels=4)
    options = {"max_batch_tokens": 64}
    pretrained = load_text_model(folder, tmp_path, **options)
    traced = load_text_model(folder, tmp_path, save_mode=save_mode, **options)
    assert type(traced.handler.model).__name__ == TRACED[save_mode]
    rows = pipeline_rows([*lines(30, 30), "a"], top_k=4, function_to_apply="none")
    for found, expected in zip(answers(traced, rows), answers(pretrained, rows), strict=True):
        assert [each["label"] for each in found] == [each["label"] for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_text_of_all_positions_is_read(family: str, tmp_path: Path) -> None:
    """The longest row that the model has positions for, whatever the tokenizer says."""
    folder = write_random_model(tmp_path / "model", family, "sequence_classification")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**9
    tokenizer.save_pretrained(folder)
    model = load_text_model(folder, tmp_path, max_length=1000)
    reply = model.answer([{"body": "kalo " * 1000}])[0]
    assert reply.status == 200
    positions = 130 if family == "bert" else 130 - tokenizer.pad_token_id - 1
    assert model.handler.predictor.task.max_tokens == positions
