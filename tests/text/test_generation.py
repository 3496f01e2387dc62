"""Continuations of prompts by a tiny model: what is asked of it, what is answered and explained."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.random_text_models import write_random_model
from speechtext.errors import (
    ImpossibleRequestError,
    MalformedRequestError,
    NonFiniteOutputError,
    RequestError,
    RequestTooLargeError,
)
from speechtext.measurements import measure_batch
from speechtext.text.base import Answer, LoadedModel, TextCosts
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.generation import TextGeneration, extend_window
from speechtext.text.payloads import AnswerForm, Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Tokens, Window
from support.common import counted_calls

PROMPTS = ["kalo", "miren stoba vitu ler", "nagor peshi"]
POSITIONS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = write_random_model(
        tmp_path_factory.mktemp("model"), "gpt2", "text_generation", n_positions=POSITIONS
    )
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    network.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token_id = 3
    names = ["input_ids", "attention_mask"]
    return LoadedModel(
        network.eval(), tokenizer, network.config, {}, torch.device("cpu"), POSITIONS, names
    )


def make_task(model: LoadedModel, **keys: Any) -> TextGeneration:
    asked: dict[str, Any] = {"do_sample": False, **keys}
    return TextGeneration(model, TextSettings(mode="text_generation", **asked))


def ask(task: TextGeneration, prompt: str, **parameters: Any) -> Example:
    return task.read({"inputs": prompt, "parameters": parameters})


def answer(task: TextGeneration, *examples: Example) -> list[Any]:
    return [each.content for each in task.answer(task.encode(examples))]


def added(model: LoadedModel, prompt: str, count: int) -> list[int]:
    """Return the tokens that transformers adds to a prompt."""
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    found = model.network.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return list(found[0, ids.shape[1] :].tolist())


def count_ids(model: LoadedModel, prompt: str) -> int:
    return len(model.tokenizer(prompt)["input_ids"])


def test_target_is_no_number(model: LoadedModel) -> None:
    """Numbers were ignored ever since; anything else is told to be unknown."""
    task = make_task(model)
    assert task.read_target(5) is None
    assert task.read_target(None) is None
    assert task.read_target("kalo") == "kalo"
    assert task.read_target(True) is True


@pytest.mark.parametrize("stream", [True, False])
def test_text_is_streamed_where_that_is_asked_for(model: LoadedModel, stream: bool) -> None:
    task = make_task(model)
    assert task.streams(ask(task, "kalo", stream=stream)) is stream


def test_settings_are_what_a_request_does_not_say(model: LoadedModel) -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 11,
        "temperature": 0.3,
        "top_k": 4,
        "top_p": 0.25,
        "repetition_penalty": 1.25,
    }
    for do_sample in (False, True):
        task = make_task(model, do_sample=do_sample, **settings)
        parameters = ask(task, "kalo").parameters
        assert {name: getattr(parameters, name) for name in settings} == settings
        assert parameters.do_sample is do_sample
    others = {name: value * 2 for name, value in settings.items()}
    given = ask(task, "kalo", seed=8, **others).parameters
    assert {name: getattr(given, name) for name in settings} == others
    assert given.seed == 8


@pytest.mark.parametrize(
    ("parameters", "sampled"),
    [
        ({}, False),
        ({"temperature": 0.5}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.5}, True),
        ({"top_k": 0}, False),
        ({"repetition_penalty": 1.5}, False),
        ({"top_k": 5, "do_sample": False}, False),
    ],
)
def test_whoever_asks_how_to_sample_wants_samples(
    model: LoadedModel, parameters: dict[str, Any], sampled: bool
) -> None:
    task = make_task(model)
    assert ask(task, "kalo", **parameters).parameters.do_sample is sampled


def test_seeds_that_nobody_chose_are_of_32_bits(model: LoadedModel) -> None:
    """So that any client's numbers hold them."""
    task = make_task(model)
    seeds = [ask(task, "kalo").parameters.seed for _ in range(200)]
    assert len(set(seeds)) == 200
    assert 2**31 < max(seeds) < 2**32
    assert min(seeds) < 2**31


def test_trial_is_a_prompt_of_words_with_a_few_tokens_told(model: LoadedModel) -> None:
    task = make_task(model, do_sample=True)
    example = task.read(task.sample(3))
    assert example.text == "a a a"
    parameters = example.parameters
    assert (parameters.max_new_tokens, parameters.do_sample, parameters.details) == (8, False, True)
    ((found,),) = answer(task, example)
    assert len(found["details"]["tokens"]) == 8


def test_work_is_that_of_the_prompt_and_of_each_new_token(model: LoadedModel) -> None:
    task = make_task(model)
    task.costs = TextCosts(character_s=100.0, token_s=0.25, new_token_s=2.0, window_tokens=50)
    example = ask(task, PROMPTS[1], max_new_tokens=7)
    batch = task.encode([example])
    tokens = count_ids(model, PROMPTS[1])
    assert task.measure_work(example, batch.windows) == (
        7,
        f"new tokens after {tokens} of the prompt",
        0.25 * tokens + 14.0,
    )


@pytest.mark.parametrize(
    ("limit", "most"), [(40, 40), (POSITIONS - 1, POSITIONS - 1), (500, POSITIONS - 1)]
)
def test_new_tokens_are_limited_by_settings_and_model(
    model: LoadedModel, limit: int, most: int
) -> None:
    task = make_task(model, max_new_tokens_limit=limit)
    (found,) = task.cut_all([ask(task, "kalo", max_new_tokens=most)])
    assert not isinstance(found, RequestError)
    (refused,) = task.cut_all([ask(task, "kalo", max_new_tokens=most + 1)])
    assert isinstance(refused, ImpossibleRequestError)
    assert refused.message == (
        f"Expected parameters.max_new_tokens to be at most {most}, got {most + 1}."
    )


@pytest.mark.parametrize(("new_tokens", "kept"), [(5, 30), (30, 30), (31, 29), (59, 1)])
def test_prompt_loses_its_beginning_so_that_new_tokens_have_room(
    model: LoadedModel, new_tokens: int, kept: int
) -> None:
    task = make_task(model, max_length=30)
    text = " ".join(PROMPTS * 10)
    ids = model.tokenizer(text)["input_ids"]
    batch = task.encode([ask(task, text, max_new_tokens=new_tokens)])
    (window,) = batch.windows
    assert window.pick(window.tokens.ids) == ids[-kept:]
    assert window.dropped_tokens == len(ids) - kept
    (found,) = task.answer(batch)
    assert (found.tokens_in, found.tokens_out) == (kept, new_tokens)
    assert found.dropped_tokens == len(ids) - kept
    strict = make_task(model, max_length=30, truncation=False)
    with pytest.raises(RequestTooLargeError, match=f"at most {kept} tokens in the text, got"):
        strict.encode([ask(strict, text, max_new_tokens=new_tokens)])


def test_answers_are_the_continuations_of_transformers(model: LoadedModel) -> None:
    """In the form asked for, with the prompt or without."""
    task = make_task(model)
    examples = [
        task.read({"text": PROMPTS[0], "parameters": {"max_new_tokens": 9}}),
        ask(task, PROMPTS[1], max_new_tokens=4),
        ask(task, PROMPTS[2], max_new_tokens=12, return_full_text=False),
    ]
    assert examples[0].form is AnswerForm.PLAIN
    batch = task.encode(examples)
    with measure_batch(3) as measured:
        found = task.answer(batch)
    new = [added(model, *each) for each in zip(PROMPTS, (9, 4, 12), strict=True)]
    texts = list(map(model.tokenizer.decode, new))
    assert found == [
        Answer(PROMPTS[0] + texts[0], count_ids(model, PROMPTS[0]), 9, 0),
        Answer([{"generated_text": PROMPTS[1] + texts[1]}], count_ids(model, PROMPTS[1]), 4, 0),
        Answer([{"generated_text": texts[2]}], count_ids(model, PROMPTS[2]), 12, 0),
    ]
    assert list(measured.stages_ms) == ["model", "decode"]


@pytest.mark.parametrize("payload", [" ", {"text": "\n"}, {"inputs": "\n\n"}])
def test_white_space_is_a_prompt(model: LoadedModel, payload: Any) -> None:
    """In JSON as in plain text, where the tokenizer has tokens for it."""
    task = make_task(model, max_new_tokens=4)
    example = task.read(payload)
    text = payload if isinstance(payload, str) else next(iter(payload.values()))
    assert example.text == text
    (found,) = task.answer(task.encode([example]))
    assert found.tokens_out == 4
    new = model.tokenizer.decode(added(model, text, 4))
    assert found.content in (text + new, [{"generated_text": text + new}])
    with pytest.raises(MalformedRequestError, match="field text, got none"):
        task.read({"text": ""})


def test_prompt_without_tokens_is_refused_and_nothing_is_made_up(model: LoadedModel) -> None:
    """Beside another, padding would stand for it."""
    predictor = TextPredictor(make_task(model), None)
    empty = replace(predictor.read({"inputs": "kalo"}), text="")
    refused, good = predictor.answer([empty, predictor.read({"inputs": "kalo"})])
    assert isinstance(refused, MalformedRequestError)
    assert (refused.kind, refused.message) == (
        "EmptyText",
        "Expected a prompt of at least one token, got one without tokens.",
    )
    assert isinstance(good, Answer)


def test_guesses_of_the_settings_save_calls_and_change_no_answer(model: LoadedModel) -> None:
    plain, guessing = make_task(model), make_task(model, prompt_lookup_num_tokens=6)
    for prompt in PROMPTS:
        text = f"{prompt} " * 4
        with counted_calls(model.network) as calls:
            (expected,) = answer(plain, ask(plain, text, max_new_tokens=20))
        with counted_calls(model.network) as fewer:
            (found,) = answer(guessing, ask(guessing, text, max_new_tokens=20))
        assert found == expected
        assert len(fewer) < len(calls)


def test_details_are_told_where_they_are_asked_for(model: LoadedModel) -> None:
    task = make_task(model)
    wanted: dict[str, Any] = {"max_new_tokens": 3, "details": True, "seed": 5}
    plain, top = answer(
        task, ask(task, "kalo", **wanted), ask(task, "kalo", top_n_tokens=2, **wanted)
    )
    details, with_top = plain[0]["details"], top[0]["details"]
    new = added(model, "kalo", 3)
    assert list(plain[0]) == ["generated_text", "details"]
    assert {name: details[name] for name in details if name != "tokens"} == {
        "finish_reason": "length",
        "generated_tokens": 3,
        "seed": 5,
        "input_length": count_ids(model, "kalo"),
        "prefill": [],
    }
    assert [token["id"] for token in details["tokens"]] == new
    assert all(list(token) == ["id", "text", "logprob", "special"] for token in details["tokens"])
    assert (
        "kalo" + "".join(each["text"] for each in details["tokens"]) == plain[0]["generated_text"]
    )
    assert with_top["tokens"] == details["tokens"]
    assert [len(each) for each in with_top["top_tokens"]] == [2, 2, 2]
    assert [each[0] for each in with_top["top_tokens"]] == details["tokens"]
    silent = task.read({"text": "kalo", "parameters": wanted})
    assert answer(task, silent) == [plain[0]["generated_text"]]


def test_events_are_told_with_the_number_of_their_example(model: LoadedModel) -> None:
    task = make_task(model)
    examples = [
        ask(task, prompt, stream=stream, max_new_tokens=count)
        for prompt, stream, count in zip(PROMPTS, (True, False, True), (2, 5, 3), strict=True)
    ]
    told: list[tuple[int, TokenEvent]] = []
    task.answer(task.encode(examples), lambda *each: told.append(each))
    assert [(owner, event.index) for owner, event in told if owner == 0] == [(0, 1), (0, 2)]
    assert [(owner, event.index) for owner, event in told if owner == 2] == [(2, 1), (2, 2), (2, 3)]
    assert len(told) == 5
    last = told[-1][1].generated_text
    assert last == model.tokenizer.decode(added(model, PROMPTS[2], 3))


@pytest.mark.parametrize("as_list", [True, False])
def test_token_that_ends_a_text_is_the_checkpoints(model: LoadedModel, as_list: bool) -> None:
    task, config = make_task(model), model.network.generation_config
    new = added(model, "kalo", 12)
    end = next(index for index in range(2, 12) if new[index] not in new[:index])
    config.eos_token_id = [0, new[end]] if as_list else new[end]
    try:
        ((found,),) = answer(task, ask(task, "kalo", max_new_tokens=12, details=True))
    finally:
        config.eos_token_id = None
    assert found["details"]["finish_reason"] == "eos_token"
    assert found["details"]["generated_tokens"] == end + 1


def test_prompts_together_have_no_more_tokens_than_the_settings_say(model: LoadedModel) -> None:
    """And their padding is the tokenizer's."""
    sizes: list[list[list[int]]] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        sizes.append(given["input_ids"].tolist())

    tokens = [count_ids(model, prompt) for prompt in PROMPTS]
    most = max(tokens) + 2
    hook = model.network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for together in (3, 1):
            sizes.clear()
            task = make_task(model, max_batch_tokens=most * together)
            answer(task, *[ask(task, prompt, max_new_tokens=2) for prompt in PROMPTS])
            assert len(sizes[0]) == together
            shortest = min(sizes[0], key=lambda row: -row.count(3))
            padding = max(tokens) - min(tokens) if together == 3 else 0
            assert shortest[:padding] == [3] * padding
    finally:
        hook.remove()


def test_error_of_a_row_is_that_of_the_batch(model: LoadedModel) -> None:
    def spoil(_: Any, __: Any, output: Any) -> None:
        output.logits[-1] = torch.nan

    task = make_task(model)
    hook = model.network.register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteOutputError):
            answer(task, *[ask(task, prompt, max_new_tokens=2) for prompt in PROMPTS])
    finally:
        hook.remove()


def test_targets_are_the_tokens_that_are_added(model: LoadedModel) -> None:
    """Each is the number that the model gives it in its place, all of them in one window."""
    task = make_task(model, max_explanation_targets=4, captum_explanation=True)
    counts, streams = (3, 9), (False, True)
    examples = [
        replace(ask(task, prompt, max_new_tokens=count, stream=stream), target=None)
        for prompt, count, stream in zip(PROMPTS[:2], counts, streams, strict=True)
    ]
    found = task.find_targets(task.encode(examples))
    for prompt, targets, count in zip(PROMPTS, found, (3, 4), strict=False):
        assert not isinstance(targets, RequestError)
        new, ids = added(model, prompt, count), model.tokenizer(prompt)["input_ids"]
        assert [each.name for each in targets] == model.tokenizer.convert_ids_to_tokens(new)
        assert [each.about for each in targets] == [
            {"text": model.tokenizer.decode([token_id])} for token_id in new
        ]
        with torch.inference_mode():
            logits = model.network(torch.tensor([[*ids, *new]])).logits[0]
        for index, target in enumerate(targets):
            window = target.window
            assert window.pick(window.tokens.ids) == [*ids, *new]
            number = logits.flatten()[target.logit_index]
            assert (
                number
                == logits[len(ids) - 1 + index].max()
                == logits[len(ids) - 1 + index, new[index]]
            )
            assert target.head == 0
            assert target.explained == [True] * len(ids) + [False] * count
            assert target.shown == len(ids)
            assert target.probability is None


def test_targets_of_ones_own_are_refused(model: LoadedModel) -> None:
    task = make_task(model, captum_explanation=True, max_explanation_targets=2)
    named = replace(ask(task, "kalo"), target="kalo")
    refused, good = task.find_targets(task.encode([named, ask(task, "miren")]))
    assert isinstance(refused, ImpossibleRequestError)
    assert refused.kind == "UnknownTarget"
    assert refused.message == (
        "Expected target to be absent: each token that the model adds is explained."
    )
    assert not isinstance(good, RequestError)
    assert len(good) == 2


def test_texts_with_their_continuations_may_be_too_long_to_explain(model: LoadedModel) -> None:
    task = make_task(model, captum_explanation=True, max_explanation_tokens=5)
    (refused,) = task.find_targets(task.encode([ask(task, PROMPTS[1], max_new_tokens=5)]))
    assert isinstance(refused, RequestTooLargeError)
    assert "at most 5 tokens in a text to explain" in refused.message


def test_explanation_is_a_matrix_of_tokens_by_those_that_follow(model: LoadedModel) -> None:
    task = make_task(model)
    window = Window(Tokens([1, 2], [0, 0], [0, 0], [0, 1], [(0, 1), (1, 2)]), range(2), 0)
    explained = [
        Explained(Target(window, 0, 0, name, [True, True]), numbers, delta, n_steps)
        for name, numbers, delta, n_steps in (
            ("x", [0.5, 1.0], 0.01, 20),
            ("y", [2.0, 3.0], -0.02, 80),
            ("z", [4.0, 5.0], 0.03, 40),
        )
    ]
    assert task.describe(Example("ab"), explained) == {
        "generated": ["x", "y", "z"],
        "importances": [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]],
        "delta": [0.01, -0.02, 0.03],
        "n_steps": 80,
    }
    assert task.describe(Example("ab"), []) == {
        "generated": [],
        "importances": [],
        "delta": [],
        "n_steps": 0,
    }


def test_tokens_that_are_added_are_of_no_text() -> None:
    tokens = Tokens(
        [10, 11, 12, 13],
        [1] * 4,
        [None, 0, 0, 0],
        [None, 0, 0, 1],
        [(0, 0), (0, 2), (2, 3), (4, 6)],
    )
    found = extend_window(Window(tokens, [0, 2, 3], 5, 1), [77, 78])
    assert found == Window(
        Tokens(
            [10, 12, 13, 77, 78],
            [0] * 5,
            [None, 0, 0, None, None],
            [None, 0, 1, None, None],
            [(0, 0), (2, 3), (4, 6), (0, 0), (0, 0)],
        ),
        range(5),
        5,
    )
