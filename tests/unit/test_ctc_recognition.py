"""CTC: hand-computed paths, and emissions that no neighbour in the batch changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

from build_archives import ROOT
from ctc_recognition import compute_emissions, decode_greedy, receptive_field_samples

BLANK = 0


def emission_of(path: list[int], labels: int = 32) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(path), labels).float()


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ([0, 0, 0], []),
        ([7, 7, 0, 7], [7, 7]),
        ([7, 7, 7], [7]),
        ([0, 11, 5, 15, 15, 0, 15, 8, 8], [11, 5, 15, 15, 8]),  # H E L L O: the blank keeps L twice
        ([5, 6], [5, 6]),
        ([6, 0], [6]),
    ],
)
def test_hand_computed_paths(path: list[int], labels: list[int]) -> None:
    assert decode_greedy(emission_of(path), BLANK) == labels


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([0, 4, 5, 6, 7, 11, 15]), min_size=1, max_size=60))
def test_text_is_what_the_tokenizer_makes_of_the_path(path: list[int]) -> None:
    tokenizer = demo_tokenizer()
    labels = decode_greedy(emission_of(path), tokenizer.pad_token_id)
    assert tokenizer.decode(labels, group_tokens=False) == tokenizer.decode(path)


def demo_tokenizer(cached: list[Wav2Vec2CTCTokenizer] = []) -> Wav2Vec2CTCTokenizer:  # noqa: B006
    if not cached:
        folder = Path(ROOT, "demo_models", "wav2vec2")
        cached.append(Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True))
    return cached[0]


def random_model(norm: str, **sizes: Any) -> Wav2Vec2ForCTC:
    """Return a model of random weights: `group` is laid out as base-960h, `layer` as large-lv60."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
        vocab_size=32,
        **sizes,
    )
    model: Wav2Vec2ForCTC = Wav2Vec2ForCTC(config).eval()
    return model


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("batch_size", [2, 8, 32])
def test_emission_is_the_same_alone_and_in_any_batch(norm: str, batch_size: int) -> None:
    model = random_model(norm, **SMALL)
    waveforms = [torch.randn(400 + 997 * row) for row in range(batch_size)]
    for waveform, emission in zip(waveforms, compute_emissions(model, waveforms), strict=True):
        alone = model(waveform[None]).logits[0]
        torch.testing.assert_close(emission, alone, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_emission_of_a_full_size_model_is_the_same_in_a_batch() -> None:
    model = random_model("group")
    waveforms = [torch.randn(samples) for samples in (16_000, 5_000, 24_000)]
    for waveform, emission in zip(waveforms, compute_emissions(model, waveforms), strict=True):
        torch.testing.assert_close(emission, model(waveform[None]).logits[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_waveform_shorter_than_a_frame_gives_one_frame() -> None:
    model = random_model("group", **SMALL)
    assert receptive_field_samples(model) == 400
    assert compute_emissions(model, [torch.randn(1)])[0].shape == (1, 32)
