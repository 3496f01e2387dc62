"""Answers in the form of Hugging Face, beside transformers' own: demo models and full-size ones."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from benchmarks.random_text_models import write_random_model
from demo_models.catalogue import TEXT_MODELS
from serving.local import LocalModel
from support.common import (
    LoadModel,
    answers,
    as_json,
    assert_alike,
    lines,
    load_text_model,
    pipeline_rows,
)

STRATEGIES = ("none", "simple", "first", "average", "max")
ENTITY_LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
WindowsOf = Callable[..., Any]


def demo_payloads(archive: str, count: int) -> list[Any]:
    return [example.payload for example in TEXT_MODELS[archive].held_out(count, seed=7)]


@functools.cache
def full_size(workspace: Path, mode: str) -> Path:
    """Write a BERT of the published size, its head large, so that it is decided."""
    options: dict[str, Any] = {"initializer_range": 0.02}
    if mode == "token_classification":
        options["id2label"] = ENTITY_LABELS
    folder = write_random_model(workspace / mode, "bert", mode, tiny=False, **options)
    weights = load_file(folder / "model.safetensors")
    head = next(name for name in weights if name in {"qa_outputs.weight", "classifier.weight"})
    save_file({**weights, head: weights[head] * 30}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text-pipelines")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_of_the_demo_model_are_the_pipelines(
    strategy: str, load_model: LoadModel, unpacked: Callable[[str], Path]
) -> None:
    texts = demo_payloads("bert_token_classification", 100)
    reference = pipeline("token-classification", str(unpacked("bert_token_classification")))
    model = load_model("bert_token_classification")
    found = answers(model, pipeline_rows(texts, aggregation_strategy=strategy))
    expected = [reference(text, aggregation_strategy=strategy) for text in texts]
    assert_alike(found, [[as_json(each) for each in row] for row in expected])
    assert sum(map(len, found)) > len(texts)


def test_entities_of_a_full_size_model_are_the_pipelines(workspace: Path) -> None:
    folder = full_size(workspace, "token_classification")
    model = load_text_model(folder, workspace, mode="token_classification")
    texts = lines(24, 5)
    reference: Any = pipeline("token-classification", str(folder))
    scored = []
    for text in texts:
        (inputs,) = reference.preprocess(text, is_split_into_words=False)
        scored.append([reference.forward(inputs)])
    for strategy in STRATEGIES:
        parameters, _, strategy_parameters = reference._sanitize_parameters(
            aggregation_strategy=strategy
        )
        assert not parameters["is_split_into_words"]
        expected = [reference.postprocess(each, **strategy_parameters) for each in scored]
        found = answers(model, pipeline_rows(texts, aggregation_strategy=strategy))
        assert_alike(found, [[as_json(each) for each in row] for row in expected])


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_entities_of_long_texts_are_the_pipelines(
    strategy: str, unpacked: Callable[[str], Path], workspace: Path
) -> None:
    folder = unpacked("bert_token_classification")
    texts = demo_payloads("bert_token_classification", 60)
    long = [" ".join(texts[start : start + 6]) for start in range(0, 60, 6)]
    reference: Any = pipeline("token-classification", str(folder), stride=8)
    reference.tokenizer.model_max_length = 32
    model = load_text_model(folder, workspace, mode="token_classification", max_length=32)
    rows = pipeline_rows(long, aggregation_strategy=strategy, stride=8)
    expected = [reference(text, aggregation_strategy=strategy) for text in long]
    assert_alike(answers(model, rows), [[as_json(each) for each in row] for row in expected])


def test_long_texts_get_the_labels_of_the_whole(
    load_model: LoadModel, unpacked: Callable[[str], Path], workspace: Path
) -> None:
    """Windows of a third of the text find what the model finds in the text as a whole."""
    texts = demo_payloads("bert_token_classification", 40)
    long = [" ".join(texts[start : start + 4]) for start in range(0, 40, 4)]
    folder = unpacked("bert_token_classification")
    windowed = load_text_model(folder, workspace, mode="token_classification", max_length=64)
    rows = [{"body": text} for text in long]
    found, expected = (
        answers(windowed, rows),
        answers(load_model("bert_token_classification"), rows),
    )
    agree = 0
    for one, other in zip(found, expected, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        agree += sum(first == second for first, second in zip(one, other, strict=True))
    assert agree >= 0.98 * sum(map(len, expected))


@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none", None])
def test_classes_are_the_pipelines(
    top_k: int | None,
    function: str | None,
    load_model: LoadModel,
    unpacked: Callable[[str], Path],
) -> None:
    texts = demo_payloads("bert_seq_classification", 30)
    reference = pipeline("text-classification", str(unpacked("bert_seq_classification")))
    options: dict[str, Any] = {"top_k": top_k} | (
        {"function_to_apply": function} if function else {}
    )
    found = answers(load_model("bert_seq_classification"), pipeline_rows(texts, **options))
    assert_alike(found, reference(texts, **options))


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", 3),
        ("multi_label_classification", 4),
        ("regression", 1),
        ("regression", 2),
        (None, 1),
    ],
)
def test_heads_of_every_kind_are_the_pipelines(
    problem: str | None, labels: int, tmp_path: Path
) -> None:
    folder = write_random_model(
        tmp_path / "model",
        "roberta",
        "sequence_classification",
        num_labels=labels,
        problem_type=problem,
    )
    model = load_text_model(folder, tmp_path)
    reference: Any = pipeline("text-classification", str(folder))
    pairs = [
        {"text": one, "text_pair": other}
        for one, other in zip(lines(20), lines(20, seed=5), strict=True)
    ]
    for inputs in (lines(20), pairs):
        expected = [reference(each, top_k=None) for each in inputs]
        assert_alike(answers(model, pipeline_rows(inputs, top_k=None)), expected)
    rows = [{"body": text} for text in lines(20)]
    ranked = answers(model, pipeline_rows(lines(20), top_k=None))
    for plain, every in zip(answers(model, rows), ranked, strict=True):
        if problem == "multi_label_classification":
            held = {each["label"] for each in every if each["score"] >= 0.5}
            assert set(plain) == held
        elif problem == "regression":
            values = {each["label"]: each["score"] for each in every}
            numbers = [values[f"LABEL_{index}"] for index in range(labels)]
            assert plain == pytest.approx(numbers[0] if labels == 1 else numbers, abs=1e-5)
        else:
            assert plain == every[0]["label"]


def test_index_to_name_goes_before_the_models_own_labels(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "bert", "sequence_classification")
    (folder / "index_to_name.json").write_text('{"0": "no", "1": "yes"}')
    model = load_text_model(folder, tmp_path)
    assert set(answers(model, [{"body": text} for text in lines(20)])) == {"no", "yes"}


class Reference:
    """The pipeline "question-answering" of transformers 4.57, written out for one request."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForQuestionAnswering.from_pretrained(folder).eval()

    def answer(
        self,
        question: str,
        context: str,
        longest_row: int,
        stride: int,
        top_k: int = 1,
        longest: int = 15,
        impossible: bool = False,
        align: bool = True,
    ) -> Any:
        windows = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=longest_row,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        answers: list[dict[str, Any]] = []
        none = 1e6
        for window in range(len(windows["input_ids"])):
            starts, ends = self._probabilities(windows, window)
            none = min(none, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0
            joint = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
            count = top_k * 2 + 10 if align else top_k
            for place in np.argsort(-joint, axis=None, kind="stable")[:count]:
                first, last = np.unravel_index(place, joint.shape)
                if joint[first, last] > 0:
                    self._add(
                        answers,
                        windows,
                        window,
                        (int(first), int(last)),
                        float(joint[first, last]),
                        context,
                        align,
                    )
        if impossible:
            answers.append({"score": none, "start": 0, "end": 0, "answer": ""})
        ranked = sorted(answers, key=lambda each: each["score"], reverse=True)[:top_k]
        return ranked[0] if len(ranked) == 1 else ranked

    @torch.inference_mode()
    def _probabilities(self, windows: Any, window: int) -> tuple[np.ndarray, np.ndarray]:
        names = [name for name in self.tokenizer.model_input_names if name in windows]
        output = self.model(**{name: torch.tensor([windows[name][window]]) for name in names})
        allowed = np.array([each == 1 for each in windows.sequence_ids(window)])
        allowed |= np.array(windows["input_ids"][window]) == self.tokenizer.cls_token_id
        found = []
        for logits in (output.start_logits, output.end_logits):
            masked = np.where(allowed, logits[0].double().numpy(), -10000.0)
            shifted = np.exp(masked - masked.max())
            found.append(shifted / shifted.sum())
        return found[0], found[1]

    def _add(
        self,
        answers: list[dict[str, Any]],
        windows: Any,
        window: int,
        span: tuple[int, int],
        score: float,
        context: str,
        align: bool,
    ) -> None:
        first, last = span
        offsets = windows["offset_mapping"][window]
        start, end = offsets[first][0], offsets[last][1]
        words = [windows.token_to_word(window, token) for token in span]
        if align and None not in words:
            start = windows.word_to_chars(window, words[0], sequence_index=1)[0]
            end = windows.word_to_chars(window, words[1], sequence_index=1)[1]
        text = context[start:end]
        for answer in answers:
            if answer["answer"].lower() == text.lower():
                answer["score"] += score
                return
        answers.append({"score": score, "start": start, "end": end, "answer": text})


QUESTION_OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"max_answer_len": 3, "top_k": 2},
    {"handle_impossible_answer": True},
    {"handle_impossible_answer": True, "top_k": 5, "align_to_words": False},
    # So many that no answer is one of them: its score is that of the window that allows it least.
    {"handle_impossible_answer": True, "top_k": 100},
]


def compare_questions(
    model: LocalModel,
    reference: Reference,
    asked: list[dict[str, str]],
    longest_row: int,
    stride: int,
    options: dict[str, Any],
) -> None:
    rows = pipeline_rows(asked, max_seq_len=longest_row, doc_stride=stride, **options)
    expected = [
        reference.answer(
            **each,
            longest_row=longest_row,
            stride=stride,
            top_k=options.get("top_k", 1),
            longest=options.get("max_answer_len", 15),
            impossible=options.get("handle_impossible_answer", False),
            align=options.get("align_to_words", True),
        )
        for each in asked
    ]
    assert_alike(answers(model, rows), expected)


@pytest.mark.parametrize("options", QUESTION_OPTIONS)
@pytest.mark.parametrize(("longest_row", "stride"), [(384, 128), (48, 12)])
def test_demo_answers_are_those_of_transformers_4(
    options: dict[str, Any],
    longest_row: int,
    stride: int,
    load_model: LoadModel,
    unpacked: Callable[[str], Path],
) -> None:
    asked = demo_payloads("bert_question_answering", 40)
    reference = Reference(unpacked("bert_question_answering"))
    model = load_model("bert_question_answering")
    compare_questions(model, reference, asked, longest_row, stride, options)


@pytest.mark.parametrize("options", QUESTION_OPTIONS)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "deberta-v2"])
def test_answers_of_other_families_are_those_of_transformers_4(
    options: dict[str, Any], family: str, tmp_path: Path
) -> None:
    folder = write_random_model(tmp_path / "model", family, "question_answering")
    model = load_text_model(folder, tmp_path, mode="question_answering")
    asked = [
        {"question": question, "context": context}
        for question, context in zip(lines(20, 4), lines(20, 60, seed=3), strict=True)
    ]
    compare_questions(model, Reference(folder), asked, 60, 14, options)


def test_answers_of_a_full_size_model_are_those_of_transformers_4(workspace: Path) -> None:
    folder = full_size(workspace, "question_answering")
    model = load_text_model(folder, workspace, mode="question_answering", max_length=96)
    asked = [
        {"question": question, "context": context}
        for question, context in zip(lines(12, 4), lines(12, 60, seed=4), strict=True)
    ]
    compare_questions(model, Reference(folder), asked, 96, 24, {"top_k": 3})


def test_a_question_without_an_answer_gets_none(tmp_path: Path) -> None:
    """As in SQuAD 2: where the first token is the likeliest start and end, the answer is empty."""
    folder = write_random_model(tmp_path / "model", "bert", "question_answering")
    model = load_text_model(
        folder, tmp_path, mode="question_answering", handle_impossible_answer=True
    )
    classifier = model.handler.model.qa_outputs
    hidden = model.handler.model.bert(torch.tensor([[2, 7, 3, 8, 3]])).last_hidden_state[0, 0]
    with torch.no_grad():
        classifier.weight.copy_(hidden.expand(2, -1) * 10)
    reply = model.answer([{"body": {"question": "kalo", "context": "miren stoba"}}])[0]
    assert (reply.status, reply.answer) == (200, "")


QUESTION_WORDS = ["who", "works", "for", "Acme", "and", "where", "does", "she", "live"]
CONTEXT = "Maria Rossi works for Acme in Paris. Ann lives there too."


def test_answers_in_small_windows_are_right_or_refused(load_model: LoadModel) -> None:
    """Where the whole fits, it is the answer of a large window; what does not fit is told."""
    model = load_model("bert_question_answering")
    tokenizer = model.handler.tokenizer

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(8, 40),
        st.none() | st.integers(0, 40),
        st.none() | st.integers(1, 12),
        st.integers(1, 9),
        st.integers(1, len(CONTEXT)),
    )
    def check(
        window: int, stride: int | None, question_tokens: int | None, words: int, characters: int
    ) -> None:
        inputs = {"question": " ".join(QUESTION_WORDS[:words]), "context": CONTEXT[:characters]}
        asked = {"max_seq_len": window, "doc_stride": stride, "max_question_len": question_tokens}
        rows = pipeline_rows([inputs], **asked) + pipeline_rows([inputs])
        small, large = model.answer(rows)
        length = len(tokenizer(inputs["question"], inputs["context"])["input_ids"])
        question = len(tokenizer(inputs["question"], add_special_tokens=False)["input_ids"])
        most = min(window // 2, window - 4, question_tokens or window)
        assert large.status == 200
        if question > most:
            assert small.status == 413
            assert f"at most {most} tokens in question" in small.answer["message"]
        elif stride is not None and small.status != 200:
            assert small.status == 422
            room = window - 3 - question
            assert stride > room - max(1, room // 4)
        else:
            assert small.status == 200
            if length <= window:
                assert_alike(small.answer, large.answer)
            start, end = small.answer["start"], small.answer["end"]
            assert small.answer["answer"] == inputs["context"][start:end] != ""

    check()
