"""The acoustic front end gives torchaudio's own features."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.pipelines import EMFORMER_RNNT_BASE_LIBRISPEECH as BUNDLE

from repository import ROOT
from speechtext.speech.rnnt.features import (
    MIN_SAMPLES,
    count_frames,
    cut_frames,
    load_features,
    whole_features,
)

STATISTICS = ROOT / "demo_models" / "emformer_asr" / "global_stats.json"


def reference_extractor(statistics: Path) -> torch.nn.Module:
    """Return the bundle's own extractor; an absolute path stands for what it would download."""
    bundle = replace(BUNDLE, _global_stats_path=str(statistics))
    extractor: torch.nn.Module = bundle.get_feature_extractor()
    return extractor


OURS = load_features(STATISTICS)
REFERENCE = reference_extractor(STATISTICS)


@torch.inference_mode()
@settings(max_examples=200, deadline=None)
@given(st.integers(MIN_SAMPLES, 50_000), st.floats(-7, 0), st.integers(0, 1000))
def test_features_equal_torchaudios(samples: int, exponent: float, seed: int) -> None:
    """From near silence, where the logarithm turns into a line, to full scale."""
    waveform = torch.randn(samples, generator=torch.manual_seed(seed)) * 10**exponent
    expected, length = REFERENCE(waveform.clone())
    features = whole_features(OURS, waveform)
    assert len(features) == int(length)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 200, 201, MIN_SAMPLES - 1, MIN_SAMPLES])
def test_short_waveform_gives_one_encoder_frame(samples: int) -> None:
    assert whole_features(OURS, torch.randn(samples)).shape == (4 + 4, 80)


@torch.inference_mode()
@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5_000), st.lists(st.integers(1, 3_000), max_size=8), st.integers(0, 1000))
def test_frames_of_pieces_equal_those_of_the_whole(
    samples: int, cuts: list[int], seed: int
) -> None:
    """However a waveform arrives, frames that can be computed early are what they are later."""
    waveform = torch.randn(samples, generator=torch.manual_seed(seed))
    expected = whole_features(OURS, waveform)[:-4]
    frames: list[torch.Tensor] = []
    for received in [*sorted(cut for cut in cuts if cut < samples), samples]:
        stop = count_frames(received, ended=received == samples)
        if stop > len(frames):
            first_sample = max(0, len(frames) * 160 - 200)
            cut = cut_frames(waveform[first_sample:received], first_sample, len(frames), stop)
            frames.extend(OURS(cut))
    torch.testing.assert_close(torch.stack(frames), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"mean": [0.0], "invstddev": [1.0]})]
)
def test_broken_statistics_stop_the_load_with_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "global_stats.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^global_stats.json must .*\.$"):
        load_features(path)
