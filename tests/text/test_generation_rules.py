"""A checkpoint's generation_config.json: done as transformers does it, on every engine."""

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmarks.random_text_models import write_random_model
from speechtext.errors import RequestError
from speechtext.text.generation import TextGeneration
from speechtext.text.generation_rules import find_ignored
from speechtext.text.open_texts import OpenText, OpenTexts
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.openvino import load

PROMPTS = ["kalo", "miren stoba vitu ler", "nagor peshi kalo kalo"]
NEW_TOKENS = 12
MODE: dict[str, Any] = {"mode": "text_generation", "do_sample": False}
# Rules for a text of which the tokens without them are given.
RULES: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "suppress_tokens": lambda ids: {"suppress_tokens": ids[:3]},
    "begin_suppress_tokens": lambda ids: {"begin_suppress_tokens": ids[:1]},
    "bad_words_ids": lambda ids: {"bad_words_ids": [ids[:1], ids[1:3]]},
    "no_repeat_ngram_size": lambda _: {"no_repeat_ngram_size": 1},
    "min_new_tokens": lambda ids: {"min_new_tokens": 10, "eos_token_id": ids[2]},
    "min_length": lambda ids: {"min_length": 11, "eos_token_id": [ids[2], ids[4]]},
    "forced_eos_token_id": lambda ids: {"forced_eos_token_id": ids[0]},
    "sequence_bias": lambda ids: {"sequence_bias": [[ids[:1], -50.0], [ids[1:3], 3.0]]},
    "exponential_decay_length_penalty": lambda ids: {
        "exponential_decay_length_penalty": [3, 1.5],
        "eos_token_id": ids[5],
    },
}
ENGINES: dict[str, dict[str, Any]] = {
    "pytorch": {},
    "int8": {"quantization": "int8_dynamic"},
    "lookup": {"prompt_lookup_num_tokens": 6},
    "openvino": {"save_mode": "openvino"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("rules")
    return write_random_model(workspace / "model", "gpt2", "text_generation", n_positions=80)


@pytest.fixture(scope="module")
def predict(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what loads the model on an engine, once."""

    @cache
    def of(engine: str) -> TextPredictor:
        keys = {**MODE, **ENGINES[engine]}
        if engine == "openvino":
            return load(folder, tmp_path_factory.mktemp("openvino") / "model", **keys)
        return TextPredictor.load(folder, TextSettings(**keys))

    return of


def added(network: Any, ids: list[int], **rules: Any) -> list[int]:
    """Return the tokens that transformers adds, by a checkpoint's rules."""
    config = GenerationConfig(**{"eos_token_id": None, "pad_token_id": 0, **rules})
    config.max_new_tokens = NEW_TOKENS
    found = network.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), generation_config=config
    )
    return list(found[0, len(ids) :].tolist())


def answers(predictor: TextPredictor, prompts: list[str], join: bool) -> list[list[int]]:
    """Return the tokens added to prompts that come together, or one by one at any token."""
    asked = {"max_new_tokens": NEW_TOKENS, "details": True}
    examples = [predictor.read({"inputs": each, "parameters": asked}) for each in prompts]
    found: list[Any] = list(predictor.answer(examples))
    if join:
        assert isinstance(predictor.task, TextGeneration)
        texts, opened = OpenTexts(predictor, predictor.task), list[OpenText]()
        for example in examples:
            opened += [each for each in texts.begin([example], print) if isinstance(each, OpenText)]
            texts.advance()
        while not all(each.ended for each in opened):
            texts.advance()
        found = list(map(texts.finish, opened))
    assert not any(isinstance(each, RequestError) for each in found), found
    tokens = [each.content[0]["details"]["tokens"] for each in found]
    return [[token["id"] for token in each] for each in tokens]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", RULES)
def test_tokens_are_those_of_transformers(
    rule: str, engine: str, predict: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each prompt as if it were alone, together and joining, on every engine."""
    predictor = predict(engine)
    network = predictor.task.model.network
    reference = network
    if engine == "openvino":
        reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [predictor.task.tokenizer(each)["input_ids"] for each in PROMPTS]
    rules = RULES[rule](added(reference, ids[1]))
    expected = [added(reference, each, **rules) for each in ids]
    assert expected[1] != added(reference, ids[1])
    config = GenerationConfig(**{"eos_token_id": None, "pad_token_id": 0, **rules})
    monkeypatch.setattr(network, "generation_config", config)
    monkeypatch.delitem(predictor.task.__dict__, "_rules", raising=False)
    for join in (False, True):
        assert answers(predictor, PROMPTS, join) == expected
    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        assert answers(predictor, [prompt], join=False) == [tokens]
    predictor.task.__dict__.pop("_rules")


def write_rules(folder: Path, **rules: Any) -> Path:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **rules}))
    return folder


def test_what_is_not_followed_is_said_once_at_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what is followed is in the file, as a checkpoint brings it."""
    source = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    plain = TextPredictor.load(source, TextSettings(**MODE))
    (before, _) = answers(plain, PROMPTS[:2], join=False)
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "repetition_penalty": 1.1}
    write_rules(source, **sampling, num_beams=4, suppress_tokens=before[:1])
    with caplog.at_level(logging.WARNING, "speechtext"):
        predictor = TextPredictor.load(source, TextSettings(**MODE, top_p=0.95))
        after, _ = answers(predictor, PROMPTS[:2], join=False)
    assert before[0] not in after
    told = [
        each.getMessage() for each in caplog.records if "generation_config" in each.getMessage()
    ]
    assert told == [
        "generation_config.json: the YAML and requests say how tokens are chosen; not followed: "
        "num_beams, do_sample, repetition_penalty, temperature."
    ]


@pytest.mark.parametrize(
    ("keys", "ignored"),
    [
        ({}, []),
        ({"num_beams": 1, "guidance_scale": 1.0, "repetition_penalty": 1.0}, []),
        # Of a model that does not sample they mean nothing.
        ({"temperature": 0.6, "top_k": 5}, []),
        ({"do_sample": True, "top_k": 60, "top_p": 0.9}, ["top_p"]),
        ({"do_sample": False, "guidance_scale": 2.0}, ["guidance_scale", "do_sample"]),
        ({"stop_strings": ["x"], "suppress_tokens": [1]}, ["stop_strings"]),
    ],
)
def test_only_what_would_change_an_answer_is_said(keys: dict[str, Any], ignored: list[str]) -> None:
    assert find_ignored(GenerationConfig(**keys), TextSettings(mode="text_generation")) == ignored


def test_explained_tokens_are_the_first_of_the_answer(tmp_path: Path) -> None:
    """A rule for the end of a text does not hold where the explanation ends."""
    source = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    plain = TextPredictor.load(source, TextSettings(**MODE))
    (before,) = answers(plain, PROMPTS[:1], join=False)
    write_rules(source, forced_eos_token_id=before[0])
    predictor = TextPredictor.load(source, TextSettings(**MODE, max_explanation_targets=4))
    (ids,) = answers(predictor, PROMPTS[:1], join=False)
    assert (ids[-1], len(ids)) == (before[0], NEW_TOKENS)
    asked = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": NEW_TOKENS}}
    task = predictor.task
    assert isinstance(task, TextGeneration)
    (targets,) = task.find_targets(task.encode([task.read(asked)]))
    assert not isinstance(targets, RequestError)
    assert [each.name for each in targets] == task.tokenizer.convert_ids_to_tokens(ids[:4])


@pytest.mark.parametrize(
    "rules",
    [
        {"bad_words_ids": []},
        {"sequence_bias": {}},
        {"exponential_decay_length_penalty": [3, 1.5], "eos_token_id": None},
    ],
)
def test_rules_that_ask_for_nothing_change_nothing(rules: dict[str, Any], tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    write_rules(source, eos_token_id=None)
    plain = TextPredictor.load(source, TextSettings(**MODE))
    write_rules(source, **rules)
    ruled = TextPredictor.load(source, TextSettings(**MODE))
    assert answers(ruled, PROMPTS, join=False) == answers(plain, PROMPTS, join=False)


def test_rules_for_another_vocabulary_stop_the_load(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    write_rules(source, bad_words_ids=[[999_999]])
    assert len(AutoTokenizer.from_pretrained(source)) < 999_999
    with pytest.raises(ValueError, match=r"^generation_config\.json: expected rules that fit"):
        TextPredictor.load(source, TextSettings(**MODE))
