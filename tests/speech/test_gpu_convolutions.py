"""The convolutions as a GPU computes them are those of transformers, in any batch."""

import itertools
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from speechtext.speech.ctc.loading import find_head
from speechtext.speech.encoders import RowByRow, WaveformEncoder, fix_weights, open_encoder
from speechtext.speech.frame_models import FrameModel
from speechtext.speech.gpu_convolutions import (
    ROUND_SAMPLES,
    GroupedProducts,
    Together,
    speed_up_positions,
)
from support.audio_models import extractor_of
from support.encoders import LABELS, VARIANTS, cut_whole, name_of, random_network, waveforms_of

# Those of the VARIANTS that take samples.
OF_SAMPLES = [each for each in VARIANTS if each[0] not in ("wav2vec2-bert", "parakeet_ctc")]
SAMPLES = (720, 5_120, 15_999, 16_000, 16_001, 24_321, 40_001)
CONVOLUTIONS = list(itertools.product((1, 2, 3), (2, 16), (3, 4), (2, 5, 19, 128), (1, 7, 8, 33)))


def as_on_gpu(network: Any, family: str) -> FrameModel:
    """Return a model with what an encoder has on a GPU."""
    base = network.base_model
    together = Together(base.feature_extractor)
    encoder = open_encoder(base, extractor_of(family))
    assert isinstance(encoder, WaveformEncoder)
    encoder._front_end = base.feature_extractor = together
    speed_up_positions(base)
    return FrameModel(encoder, find_head(network))


# PyTorch says so of WavLM's attention under a mask.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), OF_SAMPLES, ids=name_of)
def test_frames_are_those_of_a_cpu_in_any_batch(family: str, sizes: dict[str, Any]) -> None:
    network = random_network(family, **sizes)
    plain = FrameModel(open_encoder(network.base_model, extractor_of(family)), find_head(network))
    samples = SAMPLES if plain.encoder.pads else (24_321,) * 3
    pieces = [cut_whole(plain.encoder, waveform) for waveform in waveforms_of(samples)]
    expected = [plain.run([piece])[0] for piece in pieces]
    model = as_on_gpu(random_network(family, **sizes), family)
    together = model.run(pieces)
    for piece, frames, reference in zip(pieces, together, expected, strict=True):
        torch.testing.assert_close(frames, reference, atol=1e-4, rtol=0)
        torch.testing.assert_close(model.run([piece])[0], reference, atol=1e-4, rtol=0)
    assert together[0].shape[1] == LABELS


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_front_end_of_full_size_is_transformers(norm: str) -> None:
    torch.manual_seed(0)
    config = Wav2Vec2Config(num_hidden_layers=1, feat_extract_norm=norm, conv_bias=norm == "layer")
    front_end = Wav2Vec2Model(config).eval().feature_extractor
    # A mean that is not zero, and rows that are louder than others.
    levels = itertools.cycle((1, 9, 99))
    waves = [wave * next(levels) + 0.3 for wave in waveforms_of(SAMPLES)]
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    alone, together = RowByRow(front_end), Together(front_end)
    alone.samples = together.samples = SAMPLES
    assert padded.shape[1] % ROUND_SAMPLES
    expected, found = alone(padded), together(padded)
    assert found.shape == expected.shape
    for row, other, wave in zip(found, expected, waves, strict=True):
        frames = int((other.abs().sum(dim=0) > 0).sum())
        assert frames == front_end(wave[None]).shape[2]
        torch.testing.assert_close(row[:, :frames], other[:, :frames], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("batch", "groups", "own", "kernel", "frames"), CONVOLUTIONS)
def test_grouped_products_are_a_convolution(
    batch: int, groups: int, own: int, kernel: int, frames: int
) -> None:
    torch.manual_seed(kernel * frames)
    layer = torch.nn.Conv1d(
        groups * own, groups * (own + batch - 1), kernel, padding=kernel // 2, groups=groups
    )
    hidden = torch.randn(batch, groups * own, frames)
    torch.testing.assert_close(GroupedProducts(layer)(hidden), layer(hidden), atol=1e-5, rtol=1e-5)


def test_only_grouped_convolutions_are_replaced() -> None:
    """Strides, dilations and one group for each channel are cuDNN's."""
    left = [
        torch.nn.Conv1d(8, 8, 3),
        torch.nn.Conv1d(8, 8, 3, groups=8),
        torch.nn.Conv1d(8, 8, 3, groups=2, stride=2),
        torch.nn.Conv1d(8, 8, 3, groups=2, dilation=2),
        torch.nn.Conv1d(8, 8, 3, groups=2, padding="same"),
        torch.nn.Conv1d(8, 8, 3, groups=2, padding=1, padding_mode="reflect"),
    ]
    network = torch.nn.Sequential(*left, torch.nn.Conv1d(8, 8, 3, groups=2, bias=False))
    expected = network[-1](torch.ones(1, 8, 5))
    speed_up_positions(network)
    assert list(network)[:-1] == left
    assert isinstance(network[-1], GroupedProducts)
    torch.testing.assert_close(network[-1](torch.ones(1, 8, 5)), expected)


def test_gradients_go_through() -> None:
    """Attributions of recordings are made of them."""
    torch.manual_seed(0)
    network = Wav2Vec2Model(Wav2Vec2Config(num_hidden_layers=1, conv_dim=(32,) * 7)).eval()
    fix_weights(network)
    backward: Any = torch.autograd.backward
    gradients = []
    for on_gpu in (False, True):
        if on_gpu:
            speed_up_on_gpu(network)
        waveform: Any = waveforms_of((8_000,))[0][None].requires_grad_()
        backward(network(waveform).last_hidden_state.square().sum())
        assert waveform.grad is not None
        gradients.append(waveform.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def speed_up_on_gpu(network: Any) -> None:
    network.feature_extractor = Together(network.feature_extractor)
    network.feature_extractor.samples = (8_000,)
    speed_up_positions(network)
