"""Payloads of the text tasks: what they may say, and what is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from batches import status_of
from repository import ROOT
from speechtext.errors import RequestError
from speechtext.payloads import as_fields
from speechtext.settings import read_settings
from speechtext.text.base import LoadedModel, TextTask
from speechtext.text.payloads import AnswerForm, Example
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import TASKS, find_task


def make_task(mode: str, archive: str, **keys: Any) -> TextTask:
    folder = ROOT / "demo_models" / archive
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model: dict[str, Any] = {
        "network": SimpleNamespace(generation_config=GenerationConfig()),
        "tokenizer": AutoTokenizer.from_pretrained(folder, local_files_only=True),
        "config": config,
        "labels": {0: "no", 1: "yes"},
        "device": None,
        "positions": 512,
        "input_names": ["input_ids"],
    }
    return TASKS[mode](LoadedModel(**model), TextSettings(mode=mode, **keys))


@pytest.fixture(scope="module")
def classification() -> TextTask:
    return make_task("sequence_classification", "bert_seq_classification", captum_explanation=True)


@pytest.fixture(scope="module")
def entities() -> TextTask:
    return make_task("token_classification", "bert_token_classification", max_length=64)


@pytest.fixture(scope="module")
def answering() -> TextTask:
    return make_task("question_answering", "bert_question_answering", max_length=64)


@pytest.fixture(scope="module")
def generation() -> TextTask:
    return make_task("text_generation", "gpt2_text_generation", max_new_tokens_limit=100)


def read(task: TextTask, payload: Any, explain: bool = False) -> Example:
    return task.read(as_fields(payload, declared_json=False), explain)


def refusal(task: TextTask, payload: Any, explain: bool = True) -> RequestError:
    with pytest.raises(RequestError) as caught:
        task.encode([read(task, payload, explain)])
    return caught.value


@pytest.mark.parametrize(
    ("payload", "form"),
    [
        ("good", AnswerForm.PLAIN),
        (b"good", AnswerForm.PLAIN),
        ({"text": "good"}, AnswerForm.PLAIN),
        (b'{"text": "good"}', AnswerForm.PLAIN),
        (b"{'text': 'good'}", AnswerForm.PLAIN),
        ({"inputs": "good"}, AnswerForm.PIPELINE),
        (b'{"inputs": "good", "parameters": {}}', AnswerForm.PIPELINE),
        ({"inputs": {"text": "good"}, "parameters": None}, AnswerForm.PIPELINE),
    ],
)
def test_text_comes_plain_or_in_an_object(
    classification: TextTask, payload: Any, form: AnswerForm
) -> None:
    for explain in (False, True):
        example = read(classification, payload, explain)
        assert (example.text, example.second, example.form) == ("good", None, form)


def test_pairs_come_plain_and_in_the_pipelines_form(classification: TextTask) -> None:
    pair = {"text": "good", "text_pair": "bad"}
    for payload in (pair, {"inputs": pair}):
        assert read(classification, payload).second == "bad"


@pytest.mark.parametrize(
    "payload",
    [{}, {"text": 5}, {"text": " "}, {"text": None}, ["good"], 5, b"\xff", {"inputs": {}}],
)
def test_payload_without_text_is_refused(classification: TextTask, payload: Any) -> None:
    assert status_of(refusal(classification, payload)) == 400


@pytest.mark.parametrize(
    "payload",
    [
        "plain",
        {"question": "who"},
        {"context": "Ann"},
        b"{broken",
        {"inputs": "who"},
        {"inputs": {}},
    ],
)
def test_question_needs_its_two_fields(answering: TextTask, payload: Any) -> None:
    assert status_of(refusal(answering, payload, explain=False)) == 400


def test_question_that_leaves_no_room_for_its_context_is_refused(answering: TextTask) -> None:
    error = refusal(answering, {"question": "who " * 100, "context": "Ann"}, explain=False)
    assert status_of(error) == 413
    assert "at most 32 tokens in question, in windows of 64, got 100" in error.message


@pytest.mark.parametrize("context", ["\u200b", "\ufeff\u200d"])
def test_context_without_words_is_refused(answering: TextTask, context: str) -> None:
    error = refusal(answering, {"question": "who", "context": context}, explain=False)
    assert (status_of(error), "context" in error.message) == (400, True)


@pytest.mark.parametrize(
    ("task", "parameters", "said"),
    [
        (
            "classification",
            {"top_k": 0},
            "top_k: input should be greater than or equal to 1, got 0",
        ),
        ("classification", {"function_to_apply": "tanh"}, "'sigmoid', 'softmax' or 'none'"),
        ("classification", {"temperature": 1}, "temperature: unknown"),
        ("classification", [1], "Expected parameters to be a JSON object, got list"),
        ("entities", {"aggregation_strategy": "last"}, "'none', 'simple', 'first', 'average'"),
        ("entities", {"stride": 3}, "Expected aggregation_strategy to be other than none"),
        ("entities", {"stride": 60, "aggregation_strategy": "max"}, "at most 47 of a window's 62"),
        ("answering", {"max_answer_len": 0}, "max_answer_len"),
        ("answering", {"handle_impossible_answer": "yes"}, "got a str"),
        ("answering", {"doc_stride": 60}, "at most 45 of a window's 60 tokens, got 60"),
        ("generation", {"max_new_tokens": 0}, "max_new_tokens"),
        ("generation", {"max_new_tokens": 101}, "at most 100, got 101"),
        ("generation", {"temperature": 0.0}, "temperature"),
        ("generation", {"temperature": 1e-38}, "temperature"),
        ("generation", {"repetition_penalty": 1e-38}, "repetition_penalty"),
        ("generation", {"top_p": 1.5}, "top_p"),
        ("generation", {"top_k": -1}, "top_k"),
        ("generation", {"repetition_penalty": 0}, "repetition_penalty"),
        ("generation", {"stop": [""]}, "stop.0"),
        ("generation", {"stop": "x"}, "stop"),
        ("generation", {"seed": -1}, "seed"),
        ("generation", {"stream": "true"}, "stream"),
        ("generation", {"temperature": 1e-40}, "temperature: input should be greater than"),
        ("generation", {"temperature": float("nan")}, "a finite number, got nan"),
        ("generation", {"repetition_penalty": 1e-320}, "repetition_penalty"),
        ("generation", {"top_p": float("inf")}, "top_p"),
        ("generation", {"top_k": 10**30}, "top_k: input should be less than"),
        ("generation", {"max_new_tokens": 10**30}, "max_new_tokens: input should be less than"),
        ("generation", {"seed": 10**30}, "seed"),
        ("generation", {"top_k": 16**5000}, "top_k: input should be less than"),
        ("entities", {"stride": 10**30, "aggregation_strategy": "max"}, "stride"),
        ("answering", {"max_seq_len": 10**30}, "max_seq_len"),
        ("answering", {"max_answer_len": 10**30}, "max_answer_len"),
    ],
)
def test_parameters_out_of_their_range_are_refused(
    task: str, parameters: Any, said: str, request: pytest.FixtureRequest
) -> None:
    inputs: Any = {"question": "who", "context": "Ann"} if task == "answering" else "Ann"
    payload = {"inputs": inputs, "parameters": parameters}
    error = refusal(request.getfixturevalue(task), payload, explain=False)
    assert status_of(error) == 422
    assert said in error.message


def test_errors_do_not_repeat_a_clients_text(generation: TextTask) -> None:
    private = "my own words"
    for parameters in ({"stop": private}, {"seed": private}, {"temperature": {"a": private}}):
        error = refusal(generation, {"inputs": "a", "parameters": parameters}, explain=False)
        assert private not in error.message


def test_null_parameters_are_the_defaults(generation: TextTask, classification: TextTask) -> None:
    nothing = dict.fromkeys(["max_new_tokens", "temperature", "stop", "seed", "do_sample"])
    parameters = read(generation, {"inputs": "a", "parameters": nothing}).parameters
    assert parameters.max_new_tokens == TextSettings().max_new_tokens
    assert isinstance(parameters.seed, int)
    every = read(classification, {"inputs": "a", "parameters": {"top_k": None}}).parameters
    assert every.top_k is None
    assert read(classification, {"inputs": "a"}).parameters.top_k == 1


def test_sampling_is_the_classic_default_and_can_be_asked_for(generation: TextTask) -> None:
    parameters = read(generation, "a").parameters
    assert (parameters.do_sample, parameters.top_p, parameters.top_k) == (True, 0.95, 60)
    greedy = make_task("text_generation", "gpt2_text_generation", do_sample=False)
    cases = [({}, False), ({"temperature": 0.7}, True), ({"top_p": 0.5, "do_sample": False}, False)]
    for given, sampled in cases:
        payload = json.dumps({"text": "a", "parameters": given})
        assert read(greedy, payload).parameters.do_sample is sampled


@pytest.mark.parametrize(
    "payload", [{"inputs": "a", "stream": True}, {"text": "a", "stream": True}]
)
def test_stream_may_stand_beside_the_parameters(generation: TextTask, payload: Any) -> None:
    assert read(generation, payload).parameters.stream is True


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"n_steps": 501}, "n_steps to be at most 500, got 501"),
        ({"n_steps": 0}, "n_steps"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"method": "shap"}, "layer_integrated_gradients"),
        ({"granularity": "letter"}, "'token' or 'word'"),
    ],
)
def test_explanations_out_of_range_are_refused(
    classification: TextTask, parameters: Any, said: str
) -> None:
    error = refusal(classification, {"text": "good", "parameters": parameters})
    assert status_of(error) == 422
    assert said in error.message


def test_explanation_must_be_configured(answering: TextTask) -> None:
    assert status_of(refusal(answering, {"question": "who", "context": "Ann"})) == 422


@pytest.mark.parametrize(
    "handler",
    [
        {"save_mode": "onnx"},
        {"max_length": 1},
        {"quantization": "int4"},
        {"top_p": 2.0},
        {"temperature": "hot"},
        {"stride": -1},
        {"temperature": 1e-40},
        {"temperature": 101.0},
        {"repetition_penalty": 1e-320},
        {"repetition_penalty": float("nan")},
        {"top_k": 10**30},
        {"max_length": 10**30},
    ],
)
def test_impossible_settings_stop_the_load(handler: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(handler))):
        read_settings(TextSettings, {"handler": handler}, "handler")


def test_unknown_mode_tells_the_choices() -> None:
    with pytest.raises(ValueError, match="mode: expected one of sequence_classification"):
        find_task("translation")
