"""CTC: hand-computed paths, and emissions that no neighbour in the batch changes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from repository import ROOT
from speechtext.batching import plan_batches
from speechtext.speech.chunks import FrameGrid, cut_chunks, cut_waveform
from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.encoders import measure_normalization

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


@given(
    st.lists(st.integers(1, 4_000_000) | st.sampled_from([5, 320_000]), max_size=40),
    st.sampled_from(["cpu", "cuda"]),
    st.booleans(),
)
def test_batches_hold_each_waveform_once(samples: list[int], device: str, pads: bool) -> None:
    batches = plan_batches(samples, torch.device(device), pads)
    assert sorted(index for batch in batches for index in batch) == list(range(len(samples)))
    for batch in batches:
        longest = max(samples[index] for index in batch)
        assert len(batch) == 1 or (device == "cuda" and longest * len(batch) <= 640 * 16_000)
        assert pads or len({samples[index] for index in batch}) == 1


@given(st.integers(0, 1000), st.floats(-0.5, 0.5), st.floats(0.001, 1))
def test_waveform_is_normalised_as_transformers_does(seed: int, mean: float, scale: float) -> None:
    waveform = torch.randn(4000, generator=torch.manual_seed(seed)) * scale + mean
    extractor = Wav2Vec2FeatureExtractor()
    expected = extractor(waveform.numpy(), sampling_rate=16_000).input_values[0]
    actual = measure_normalization(waveform).apply(waveform)
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
