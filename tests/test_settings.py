"""Sections of a model's YAML: what they become, and what is said of each mistake."""

import copy
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechtext.settings import read_settings
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.text.loading import CompileSettings
from speechtext.text.settings import TextSettings


def refuse(settings_class: type[Any], handler: Any) -> str:
    """Return what is said of a section that is refused."""
    with pytest.raises(ValueError, match=r"^handler[.:]") as refusal:
        read_settings(settings_class, {"handler": handler}, "handler")
    return str(refusal.value)


def test_settings_have_defaults_and_leave_the_configuration_alone() -> None:
    config = {"handler": {"max_audio_seconds": 5}, "minWorkers": 1}
    before = copy.deepcopy(config)
    settings = read_settings(Wav2Vec2Settings, config, "handler")
    assert (settings.max_audio_seconds, settings.dtype) == (5.0, "float32")
    assert config == before


@pytest.mark.parametrize(
    "config", [None, {}, {"handler": None}, {"handler": {}}, {"other": {"top_k": 3}}]
)
def test_section_that_is_not_there_is_all_defaults(config: Any) -> None:
    assert read_settings(TextSettings, config, "handler") == TextSettings()


def test_section_within_a_section() -> None:
    config = {"pt2": {"compile": {"enable": True, "mode": "default"}, "other": 1}}
    assert read_settings(CompileSettings, config, "pt2.compile").mode == "default"
    assert read_settings(CompileSettings, {"pt2": {}}, "pt2.compile") == CompileSettings()


@pytest.mark.parametrize("section", [[1], "x", 3])
@pytest.mark.parametrize("name", ["pt2", "pt2.compile"])
def test_section_that_has_no_keys(name: str, section: Any) -> None:
    config = {"pt2": {"compile": section} if name == "pt2.compile" else section}
    with pytest.raises(ValueError, match="expected keys and values") as refusal:
        read_settings(CompileSettings, config, "pt2.compile")
    assert str(refusal.value) == f"pt2.compile: expected keys and values, got {section!r}."


def test_unknown_key_is_told_with_those_that_there_are() -> None:
    choices = ", ".join(each.name for each in fields(Wav2Vec2Settings))
    assert refuse(Wav2Vec2Settings, {"max_audio_second": 5}) == (
        f"handler.max_audio_second: expected one of the keys {choices}."
    )


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ({"mode": 3}, "handler.mode: input should be a valid string, got 3."),
        ({"threads": "two"}, "handler.threads: input should be a valid integer, got 'two'."),
        ({"top_k": True}, "handler.top_k: input should be a valid integer, got True."),
        ({"truncation": "yes"}, "handler.truncation: input should be a valid boolean, got 'yes'."),
        ({"top_p": math.inf}, "handler.top_p: input should be a finite number, got inf."),
        ({"top_p": 2}, "handler.top_p: input should be less than or equal to 1, got 2."),
        (
            {"dtype": "float8"},
            "handler.dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16', "
            "got 'float8'.",
        ),
    ],
)  # fmt: skip
def test_mistake_names_key_expectation_and_value(handler: dict[str, Any], expected: str) -> None:
    assert refuse(TextSettings, handler) == expected


def test_each_mistake_has_its_sentence() -> None:
    assert refuse(TextSettings, {"mode": 3, "n_steps": 0}) == (
        "handler.mode: input should be a valid string, got 3. "
        "handler.n_steps: input should be greater than or equal to 1, got 0."
    )


def test_settings_that_do_not_go_together() -> None:
    assert refuse(Wav2Vec2Settings, {"hotwords": ["lights"]}) == (
        "handler: value error, expected decoder: beam for hotwords."
    )


@given(steps=st.integers(1, 2**31 - 1), temperature=st.floats(1e-6, 100))
def test_what_is_in_range_is_taken_as_it_is(steps: int, temperature: float) -> None:
    handler = {"n_steps": steps, "temperature": temperature}
    settings = read_settings(TextSettings, {"handler": handler}, "handler")
    assert (settings.n_steps, settings.temperature) == (steps, temperature)
