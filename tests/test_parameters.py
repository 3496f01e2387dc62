"""Parameters of requests, the names and scores of labels, and what a batch took."""

import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.errors import ImpossibleRequestError, NonFiniteOutputError
from speechtext.finite import check_finite, find_finite
from speechtext.labels import load_labels, rank_labels, to_scores
from speechtext.measurements import (
    measure_batch,
    note_gauge,
    note_padding,
    note_size,
    stage,
)
from speechtext.parameters import MOST_SHOWN, impossible, read_parameters
from speechtext.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Asked:
    """What a request may ask for."""

    count: Annotated[int, KeyOptions(ge=1, le=9)] = 3
    share: Annotated[float, KeyOptions(gt=0, le=1)] = 0.5
    form: Literal["short", "long"] = "short"
    most: int | None = 7
    seed: int | None = None


AMONG = "Expected parameters among count, share, form, most, seed, each in its range."


def refuse(values: Mapping[Any, Any]) -> str:
    with pytest.raises(ImpossibleRequestError) as refusal:
        read_parameters(Asked, values, {})
    assert refusal.value.kind == "InvalidParameter"
    assert refusal.value.message == str(refusal.value)
    assert refusal.value.message.startswith(f"{AMONG} ")
    return refusal.value.message.removeprefix(f"{AMONG} ")


@pytest.mark.parametrize(
    ("values", "defaults", "expected"),
    [
        ({}, {}, Asked()),
        ({"count": 4, "form": "long"}, {}, Asked(count=4, form="long")),
        ({}, {"count": 5, "seed": 1}, Asked(count=5, seed=1)),
        ({"count": 4}, {"count": 5, "share": 1.0}, Asked(count=4, share=1.0)),
        # A null is the default, unless it says something else.
        ({"count": None, "form": None}, {"count": 5}, Asked(count=5)),
        ({"most": None}, {}, Asked(most=None)),
        ({"most": None}, {"most": 2}, Asked(most=None)),
        ({"seed": None}, {"seed": 2}, Asked(seed=2)),
    ],
)
def test_what_a_request_names_goes_before_the_defaults(
    values: Mapping[str, Any], defaults: Mapping[str, Any], expected: Asked
) -> None:
    assert read_parameters(Asked, values, defaults) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 10}, "count: input should be less than or equal to 9, got 10."),
        ({"count": True}, "count: input should be a valid integer, got True."),
        ({"share": 0.0}, "share: input should be greater than 0, got 0.0."),
        ({"share": math.nan}, "share: input should be a finite number, got nan."),
        ({"count": "many"}, "count: input should be a valid integer, got a str."),
        ({"count": ["a"]}, "count: input should be a valid integer, got a list."),
        ({"count": {}}, "count: input should be a valid integer, got a dict."),
        ({"form": "tall"}, "form: input should be 'short' or 'long', got a str."),
        ({"more": 1}, "more: unknown."),
        ({"more": None}, "more: unknown."),
        ({"my own words": 1}, "a name: unknown."),
        # A name that means the class's own instance, and those of a literal of Python's.
        ({"__dataclass_self__": 1}, "__dataclass_self__: unknown."),
        ({1: 2}, "a name: unknown."),
        ({("a", None): 2, "count": 3}, "a name: unknown."),
        ({"x" * 100: 1}, f"{'x' * 40}: unknown."),
        (
            {"count": 0, "more": 1},
            "count: input should be greater than or equal to 1, got 0; more: unknown.",
        ),
    ],
)
def test_each_wrong_parameter_is_named(values: Mapping[Any, Any], said: str) -> None:
    assert refuse(values) == said


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("number", "shown"), [(10**40 - 1, True), (10**40, False)])
def test_number_of_many_digits_is_not_told(number: int, shown: bool, sign: int) -> None:
    said = refuse({"count": sign * number})
    assert said.endswith(f"got {sign * number}." if shown else "got an int.")
    # Nor one that Python does not write.
    assert refuse({"count": sign * 10**5_000}).endswith("got an int.")


def test_impossible_value_is_told_and_cut() -> None:
    error = impossible("n_steps", "at most 500", "7" * 100)
    assert (type(error), error.kind) == (ImpossibleRequestError, "InvalidParameter")
    assert error.message == f"Expected n_steps to be at most 500, got {'7' * MOST_SHOWN}."


def config_of(count: int, names: Mapping[Any, Any] | None = None) -> Any:
    own = {index: f"own {index}" for index in range(count)}
    return SimpleNamespace(num_labels=count, id2label=own if names is None else names)


def write_names(folder: Path, names: Any) -> None:
    (folder / "index_to_name.json").write_text(json.dumps(names), encoding="utf-8")


def test_labels_are_the_models_own_without_a_file(tmp_path: Path) -> None:
    assert load_labels(tmp_path, config_of(2)) == {0: "own 0", 1: "own 1"}
    # As a configuration that was not read by transformers has them.
    assert load_labels(tmp_path, config_of(2, {"1": "b", "0": "a"})) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "nein", "1": "jä"}, ["nein", "jä"]),
        ({"1": "b", "0": "a"}, ["a", "b"]),
        ({"0": "same", "1": "same"}, ["same", "same"]),
        # Of several names it is the last, as TorchServe has it.
        ({"0": ["n01440764", "tench"], "1": ["goldfish"]}, ["tench", "goldfish"]),
        ({"0": 3, "1": 2.5}, ["3", "2.5"]),
        ({"label_list": ["a", "b"]}, ["a", "b"]),
        ({"object_type_names": ["a", ["n1", "b"]]}, ["a", "b"]),
        ({"label_list": "[O, B-PER]"}, ["O", "B-PER"]),
        ({"label_list": " O ,B-PER ] "}, ["O", "B-PER"]),
        ({"label_list": "[XS, L]"}, ["XS", "L"]),
        ({"object_type_names": ["a", "b"], "label_list": ["c", "d"]}, ["a", "b"]),
    ],
)
def test_labels_are_those_of_the_file(names: Any, expected: list[str], tmp_path: Path) -> None:
    write_names(tmp_path, names)
    labels = load_labels(tmp_path, config_of(2))
    assert labels == dict(enumerate(expected))
    assert list(labels) == [0, 1]


LABELS_0_TO_1 = "expected names of the labels 0 to 1, got"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "expected a JSON object, got a list."),
        ("a", "expected a JSON object, got a str."),
        ({}, f"{LABELS_0_TO_1} none."),
        ({"0": "a"}, f"{LABELS_0_TO_1} those of 0."),
        ({"0": "a", "2": "b"}, f"{LABELS_0_TO_1} those of 0, 2."),
        ({"1": "a", "2": "b"}, f"{LABELS_0_TO_1} those of 1, 2."),
        ({"label_list": ["a", "b", "c"]}, f"{LABELS_0_TO_1} those of 0, 1, 2."),
        ({"label_list": "[O]"}, f"{LABELS_0_TO_1} those of 0."),
        ({"label_list": 7}, f"{LABELS_0_TO_1} those of label_list."),
        ({"x" * 200: "a"}, f"{LABELS_0_TO_1} those of {'x' * 100}."),
        ({"0": "a", "1": None}, "expected a text as the name of label 1, got a NoneType."),
        ({"0": [], "1": "a"}, "expected a text as the name of label 0, got a list."),
        ({"0": "a", "1": ["b", {}]}, "expected a text as the name of label 1, got a dict."),
    ],
)
def test_labels_that_do_not_fit_are_refused(names: Any, said: str, tmp_path: Path) -> None:
    write_names(tmp_path, names)
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        load_labels(tmp_path, config_of(2))
    assert str(refusal.value) == f"index_to_name.json: {said}"


def test_own_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    said = f"config.json: id2label: {LABELS_0_TO_1} those of 0, 5."
    with pytest.raises(ValueError, match=f"^{said}$"):
        load_labels(tmp_path, config_of(2, {0: "a", 5: "b"}))
    with pytest.raises(ValueError, match=r"^config.json: id2label: expected a text as the name of"):
        load_labels(tmp_path, config_of(1, {0: None}))


@pytest.mark.parametrize("content", [b"{", b'{"0": "\xff"}'])
def test_damaged_file_of_labels_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index_to_name.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^index_to_name.json: expected JSON, got a damaged file: .+\.$"
    ):
        load_labels(tmp_path, config_of(2))


LOGITS = [1.0, -2.0, 0.5]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("softmax", [math.exp(each) / sum(map(math.exp, LOGITS)) for each in LOGITS]),
        ("sigmoid", [1 / (1 + math.exp(-each)) for each in LOGITS]),
        ("none", LOGITS),
    ],
)
def test_scores_are_those_of_the_function(function: str, expected: list[float]) -> None:
    assert to_scores(torch.tensor(LOGITS), function).tolist() == pytest.approx(expected)


def test_softmax_is_over_labels() -> None:
    scores = to_scores(torch.tensor([[0.0, 0.0], [3.0, 3.0], [0.0, 0.0]]), "softmax")
    assert scores.tolist() == [[0.5, 0.5]] * 3


@pytest.mark.parametrize(
    ("most", "expected"),
    [(None, ["b", "c", "a"]), (1, ["b"]), (2, ["b", "c"]), (9, ["b", "c", "a"])],
)
def test_labels_are_ranked_by_their_scores(most: int | None, expected: list[str]) -> None:
    scores = {"a": 0.125, "b": 0.5, "c": 0.375}
    labels = dict(enumerate(scores))
    found = rank_labels(torch.tensor(list(scores.values())), labels, most)
    assert found == [{"label": label, "score": scores[label]} for label in expected]


def test_ranking_keeps_the_order_of_equal_labels_and_writes_plain_numbers() -> None:
    found = rank_labels(torch.tensor([0.25, 0.25]), {0: "a", 1: "b"}, None)
    assert json.dumps(found) == '[{"label": "a", "score": 0.25}, {"label": "b", "score": 0.25}]'


def test_each_row_is_found_to_be_of_numbers_or_not() -> None:
    bad, least = math.nan, -math.inf
    output = torch.tensor([[[0, 1], [bad, 1]], [[math.inf, 0], [least, 1]], [[least, least]] * 2])
    assert find_finite(output).tolist() == [[True, False], [False, True], [False, False]]


def test_error_of_no_numbers_says_who_cannot_answer() -> None:
    with pytest.raises(NonFiniteOutputError) as refusal:
        check_finite(torch.full((2, 3), math.nan))
    assert refusal.value.kind == "NonFiniteOutput"
    assert refusal.value.message == (
        "Expected numbers from the model, got NaN or infinite ones: this request cannot be "
        "answered by this model, or not in its dtype."
    )


def test_batch_adds_what_is_noted_while_it_is_answered() -> None:
    with measure_batch(3) as measured:
        note_size(0, "audio_s", 1.5)
        note_size(2, "audio_s", 2.0)
        note_size(2, "audio_s", 0.25)
        note_size(2, "tokens", 7)
        note_padding(10, 6)
        note_padding(4, 3)
        note_gauge("LiveSessions", 2)
        note_gauge("LiveSessions", 1)
    assert measured.requests == [{"audio_s": 1.5}, {}, {"audio_s": 2.25, "tokens": 7}]
    assert (measured.computed, measured.used) == (14, 9)
    assert measured.gauges == {"LiveSessions": 1}
    assert (measured.total("audio_s"), measured.total("tokens")) == (3.75, 7)
    assert measured.total("characters") == 0


def test_batch_without_notes_is_empty() -> None:
    with measure_batch(2) as measured:
        pass
    assert measured.requests == [{}, {}]
    assert (measured.computed, measured.used) == (0, 0)
    assert (measured.gauges, dict(measured.stages_ms)) == ({}, {})


def note_everything() -> None:
    note_size(0, "tokens", 5)
    note_padding(10, 6)
    note_gauge("LiveSessions", 2)
    with stage("model"):
        pass


def test_notes_outside_of_a_batch_are_of_none() -> None:
    note_everything()
    with measure_batch(1) as measured:
        pass
    note_everything()
    assert measured.requests == [{}]
    assert (measured.computed, measured.gauges, dict(measured.stages_ms)) == (0, {}, {})


def test_batch_that_fails_ends_and_one_within_another_gives_way_to_it() -> None:
    with measure_batch(1) as outer:
        with pytest.raises(KeyError), measure_batch(1) as inner:
            note_size(0, "tokens", 5)
            raise KeyError
        note_size(0, "tokens", 2)
    assert (inner.requests, outer.requests) == ([{"tokens": 5}], [{"tokens": 2}])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["model", "decode"]), max_size=3))
def test_only_the_stages_that_were_have_times(names: list[Literal["model", "decode"]]) -> None:
    with measure_batch(1) as measured:
        for name in names:
            with stage(name):
                pass
    assert set(measured.stages_ms) == set(names)


def test_times_of_a_stage_are_milliseconds_and_add_up() -> None:
    """Also of a stage that failed."""
    with measure_batch(1) as measured:
        started_s = time.perf_counter()
        with stage("model"):
            time.sleep(0.02)
        with pytest.raises(KeyError), stage("model"):
            time.sleep(0.02)
            raise KeyError
        with stage("decode"):
            time.sleep(0.005)
        most_ms = (time.perf_counter() - started_s) * 1000
    assert 40 <= measured.stages_ms["model"] <= most_ms
    assert 5 <= measured.stages_ms["decode"] <= most_ms - 40
