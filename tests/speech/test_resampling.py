"""Other sampling rates: right, and the same however a waveform is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.frames import Samples
from speechtext.speech.opening import MOST_BLOCK_BYTES, limit_blocks
from speechtext.speech.resampling import Resampler

RATE_HZ = 16_000
RATES_HZ = [4_000, 7_919, 8_000, 11_025, 22_050, 32_000, 44_100, 44_101, 48_000, 384_000]


def resample(waveform: Samples, rate_hz: int, cuts: list[int]) -> Samples:
    resampler = Resampler(rate_hz, RATE_HZ)
    pieces = np.split(waveform, sorted(cuts))
    return np.concatenate([*map(resampler.push, pieces), resampler.end()])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*RATES_HZ, RATE_HZ]),
    st.integers(0, 9_000),
    st.lists(st.integers(0, 9_000), max_size=8),
)
def test_any_cut_gives_the_same_samples(rate_hz: int, size: int, cuts: list[int]) -> None:
    whole = np.random.default_rng(size).normal(0, 0.1, size).astype(np.float32)
    assert np.array_equal(resample(whole, rate_hz, cuts), resample(whole, rate_hz, []))


def test_much_at_once_is_as_in_pieces() -> None:
    """Also where FFmpeg may have no block of its size."""
    limit_blocks()
    size = MOST_BLOCK_BYTES // 4 + 5
    whole = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    cuts = list(range(0, size, 1_000_003))
    assert np.array_equal(resample(whole, 48_000, cuts), resample(whole, 48_000, []))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("frequency_hz", [100, 440, 1_000, 1_500])
def test_tone_stays_the_tone(rate_hz: int, frequency_hz: int) -> None:
    """A sine has a closed form at every rate."""
    tones = [
        np.sin(2 * np.pi * frequency_hz * np.arange(rate) / rate).astype(np.float32)
        for rate in (rate_hz, RATE_HZ)
    ]
    resampled = resample(tones[0], rate_hz, [999])
    assert abs(len(resampled) - RATE_HZ) <= 1
    assert resampled[300:-300] == pytest.approx(tones[1][300 : len(resampled) - 300], abs=1e-3)


def test_what_the_new_rate_cannot_hold_is_silent() -> None:
    shrill = np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resample(shrill, 48_000, [])[300:-300]).max() < 1e-3
