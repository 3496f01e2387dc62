"""CTC: hand-computed paths, and emissions that no neighbour in the batch changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from repository import ROOT
from speechtext.batching import plan_batches
from speechtext.speech.ctc.cpu_convolutions import speed_up_convolutions
from speechtext.speech.ctc.emissions import (
    FrameGrid,
    compute_emissions,
    cut_chunks,
    cut_waveform,
    find_best_path,
    frame_grid,
    group_words,
    measure_normalization,
    run_batch,
)
from speechtext.speech.ctc.loading import check_architecture

BLANK = 0


def probabilities_of(path: list[int], labels: int = 32) -> torch.Tensor:
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
    tokens = find_best_path(probabilities_of(path), BLANK)
    assert [token.label for token in tokens] == labels
    for token in tokens:
        assert set(path[token.start : token.stop]) == {token.label}


def test_hand_computed_words() -> None:
    space = 4
    tokens = find_best_path(probabilities_of([0, 5, 5, 0, 6, 4, 4, 0, 4, 7, 0, 7]), BLANK)
    words = group_words(tokens, space)
    assert [[token.label for token in word] for word in words] == [[5, 6], [7, 7]]
    assert [(word[0].start, word[-1].stop) for word in words] == [(1, 5), (9, 12)]
    assert tokens[0].confidence == 1


def test_confidence_is_the_mean_probability() -> None:
    probabilities = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])
    assert find_best_path(probabilities, BLANK)[0].confidence == pytest.approx(0.8)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([0, 4, 5, 6, 7, 11, 15]), min_size=1, max_size=60))
def test_text_is_what_the_tokenizer_makes_of_the_path(path: list[int]) -> None:
    tokenizer = demo_tokenizer()
    tokens = find_best_path(probabilities_of(path), tokenizer.pad_token_id)
    labels = [token.label for token in tokens]
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
    for waveform, emission in zip(waveforms, run_batch(model, waveforms), strict=True):
        alone = model(waveform[None]).logits[0]
        torch.testing.assert_close(emission, alone, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_emission_of_a_full_size_model_is_the_same_in_a_batch() -> None:
    model = random_model("group")
    waveforms = [torch.randn(samples) for samples in (16_000, 5_000, 24_000)]
    for waveform, emission in zip(waveforms, run_batch(model, waveforms), strict=True):
        torch.testing.assert_close(emission, model(waveform[None]).logits[0], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_convolutions_of_a_cpu_compute_the_same(norm: str) -> None:
    model = random_model(norm, **SMALL)
    waveforms = [torch.randn(samples) for samples in (1, 400, 719, 720, 16_000, 40_001)]
    expected = [run_batch(model, [waveform])[0] for waveform in waveforms]
    speed_up_convolutions(model.wav2vec2.feature_extractor.conv_layers)
    for waveform, emission in zip(waveforms, expected, strict=True):
        actual = run_batch(model, [waveform])[0]
        torch.testing.assert_close(actual, emission, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_waveform_shorter_than_a_frame_gives_one_frame() -> None:
    model = random_model("group", **SMALL)
    assert frame_grid(model) == FrameGrid(field=400, stride=320)
    assert run_batch(model, [torch.randn(1)])[0].shape == (1, 32)


@given(st.integers(1, 500), st.integers(1, 100), st.data())
def test_windows_keep_every_frame_once(frames: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, (length - 1) // 2))
    windows = cut_chunks(frames, length, stride)
    kept = [frame for window in windows for frame in range(window.first_kept, window.last_kept)]
    assert kept == list(range(frames))
    for window in windows:
        assert window.stop - window.start == min(length, frames)
        assert window.start == 0 or window.first_kept - window.start >= stride
        assert window.stop == frames or window.stop - window.last_kept == stride


@given(st.integers(1, 50_000), st.integers(3, 60))
def test_windows_have_the_frames_of_their_samples(samples: int, length: int) -> None:
    grid = FrameGrid(400, 320)
    waveform = torch.arange(samples)
    for window in cut_chunks(grid.count_frames(samples), length, 1):
        piece = cut_waveform(waveform, grid, window)
        assert grid.count_frames(len(piece)) == window.stop - window.start
        assert int(piece[0]) == window.start * grid.stride


@torch.inference_mode()
def test_emission_of_windows_is_one() -> None:
    model = random_model("layer", **SMALL)
    waveforms = [torch.randn(samples) for samples in (100, 16_000, 70_000)]
    emissions = compute_emissions(model, waveforms, chunk_s=2, stride_s=0.5)
    for waveform, emission in zip(waveforms, emissions, strict=True):
        assert len(emission) == len(run_batch(model, [waveform])[0])
    torch.testing.assert_close(emissions[1], run_batch(model, [waveforms[1]])[0])


@given(st.lists(st.integers(1, 4_000_000), max_size=40), st.sampled_from(["cpu", "cuda"]))
def test_batches_hold_each_waveform_once(samples: list[int], device: str) -> None:
    batches = plan_batches(samples, torch.device(device))
    assert sorted(index for batch in batches for index in batch) == list(range(len(samples)))
    for batch in batches:
        longest = max(samples[index] for index in batch)
        assert len(batch) == 1 or (device == "cuda" and longest * len(batch) <= 640 * 16_000)


@given(st.integers(0, 1000), st.floats(-0.5, 0.5), st.floats(0.001, 1))
def test_waveform_is_normalised_as_transformers_does(seed: int, mean: float, scale: float) -> None:
    waveform = torch.randn(4000, generator=torch.manual_seed(seed)) * scale + mean
    extractor = Wav2Vec2FeatureExtractor()
    expected = extractor(waveform.numpy(), sampling_rate=16_000).input_values[0]
    actual = measure_normalization(waveform).apply(waveform)
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_convolutions_after_the_encoder_stop_the_load() -> None:
    with pytest.raises(ValueError, match="add_adapter"):
        check_architecture(random_model("layer", add_adapter=True, **SMALL))
