"""What a recording costs, and what it may be."""

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechtext.allowance import Work
from speechtext.devices import CPU
from speechtext.errors import (
    ImpossibleRequestError,
    MalformedRequestError,
    RequestTooLargeError,
)
from speechtext.speech.audio_limits import (
    MAX_AMPLITUDE,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    check_duration,
    check_rate,
    check_samples,
)
from speechtext.speech.costs import LOUDNESS, PROBE_S, SpeechCost, try_recognizer

POWERS = (1, 2)


def test_cost_grows_with_the_length() -> None:
    assert SpeechCost(2.0).measure(15.2) == Work(16, "s of audio in body", 3.04)


def test_cost_of_a_scripted_search_grows_with_the_square() -> None:
    cost = SpeechCost(probe_cost_s=1.0, power=2)
    assert cost.measure(3 * PROBE_S).cost_s == pytest.approx(9.0)
    assert cost.longest_s(9.0) == pytest.approx(3 * PROBE_S)
    assert SpeechCost(1.0).longest_s(9.0) == pytest.approx(9 * PROBE_S)


@given(st.floats(1e-3, 1e3), st.sampled_from(POWERS), st.floats(1e-3, 1e4))
def test_longest_recording_takes_just_the_time_there_is(
    probe_cost_s: float, power: int, seconds: float
) -> None:
    cost = SpeechCost(probe_cost_s, power)
    longest_s = cost.longest_s(seconds)
    assert cost.measure(longest_s).cost_s == pytest.approx(seconds)
    assert cost.measure(longest_s).amount == math.ceil(longest_s)


@pytest.mark.parametrize("power", POWERS)
def test_recogniser_is_tried_with_ten_seconds_of_quiet_noise(power: int) -> None:
    heard: list[torch.Tensor] = []

    def recognize(waveforms: Sequence[torch.Tensor]) -> None:
        heard.extend(waveforms)
        sum(range(2_000_000))

    costs = [try_recognizer(recognize, 8_000, CPU, power) for _ in range(2)]
    assert {cost.power for cost in costs} == {power}
    # The time that this thread worked, of a loop that takes some hundredths of a second.
    assert all(1e-3 < cost.probe_cost_s < 30 for cost in costs)
    first, second = heard
    assert first.shape == (int(PROBE_S) * 8_000,)
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(LOUDNESS, rel=0.02)
    assert abs(float(first.mean())) < LOUDNESS / 100


def test_cost_grows_with_the_length_where_nothing_else_is_said() -> None:
    assert try_recognizer(lambda _: None, 4_000, CPU).power == 1


@pytest.mark.parametrize("rate_hz", [MIN_RATE_HZ, 16_000, MAX_RATE_HZ])
def test_sampling_rates_that_can_be(rate_hz: int) -> None:
    check_rate(rate_hz)


@pytest.mark.parametrize("rate_hz", [0, -1, MIN_RATE_HZ - 1, MAX_RATE_HZ + 1])
def test_sampling_rates_that_cannot_be(rate_hz: int) -> None:
    with pytest.raises(ImpossibleRequestError) as refusal:
        check_rate(rate_hz)
    assert refusal.value.kind == "UnsupportedRate"
    assert refusal.value.message == (
        f"Expected a sampling rate from 4000 to 384000 Hz in body, got {rate_hz} Hz."
    )


def test_recording_of_just_the_limit() -> None:
    check_duration(7.5, 7.5)


@pytest.mark.parametrize(("more", "least"), [(False, ""), (True, "more than ")])
def test_recording_beyond_the_limit(more: bool, least: str) -> None:
    with pytest.raises(RequestTooLargeError) as refusal:
        check_duration(7.56, 7.5, more)
    assert refusal.value.kind == "AudioTooLong"
    assert refusal.value.message == f"Expected at most 7.5 s of audio in body, got {least}7.6 s."


def test_recording_is_whole_where_nothing_else_is_said() -> None:
    with pytest.raises(RequestTooLargeError, match=re.escape("got 8.0 s.")):
        check_duration(8, 7.5)


@pytest.mark.parametrize("sample", [0.0, -1.0, MAX_AMPLITUDE, -MAX_AMPLITUDE])
def test_samples_that_can_be(sample: float) -> None:
    check_samples(np.array([0.0, sample, 0.0]))
    check_samples(np.array([]))


@pytest.mark.parametrize(
    "sample", [1.001 * MAX_AMPLITUDE, -1.001 * MAX_AMPLITUDE, np.inf, -np.inf, np.nan]
)
def test_samples_that_cannot_be(sample: float) -> None:
    with pytest.raises(MalformedRequestError) as refusal:
        check_samples(np.array([0.0, sample, 0.0]))
    assert refusal.value.kind == "InvalidAudio"
    assert refusal.value.message == (
        "Expected samples from -2147483648 to 2147483648 in body (full scale is 1), "
        "got larger ones, infinite ones or NaN."
    )
