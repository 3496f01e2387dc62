"""Wav2Vec2 CTC: from waveforms to emissions, and from emissions to label indices.

Padding a batch of waveforms changes the answers of checkpoints whose first group norm averages
over time (`feat_extract_norm: group`, as base-960h). So the convolutional front end runs on each
waveform by itself, and only the transformer runs on the padded batch, under a mask: exact for
every checkpoint.
"""

from collections.abc import Sequence

import torch
from pydantic.dataclasses import dataclass
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2ForCTC

from device_io import STRICT, DtypeName


@dataclass(frozen=True, config=STRICT)
class Wav2Vec2Settings:
    """The `handler` keys of a Wav2Vec2 archive's YAML."""

    dtype: DtypeName = "float32"
    threads: int | None = None
    max_audio_seconds: float = 600.0


def extract_features(model: Wav2Vec2ForCTC, waveform: torch.Tensor) -> torch.Tensor:
    """Return the convolutional features, shape (frames, channels), of one normalised waveform.

    A waveform of shape (samples,) shorter than one frame is extended with silence to one frame.
    """
    missing = receptive_field_samples(model) - waveform.numel()
    waveform = torch.nn.functional.pad(waveform, (0, max(0, missing)))
    features: torch.Tensor = model.wav2vec2.feature_extractor(waveform[None])[0].T
    return features


def receptive_field_samples(model: Wav2Vec2ForCTC) -> int:
    """Return how many samples one frame of the convolutional front end sees."""
    field, stride = 1, 1
    for kernel, step in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field


def compute_emissions(
    model: Wav2Vec2ForCTC, waveforms: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the logits of each waveform, shape (frames, labels), float32, on the model's device.

    `waveforms` are normalised, of shape (samples,), on the model's device and in its dtype. Each
    emission is what the waveform gets alone, whatever its neighbours are.
    """
    features = [extract_features(model, waveform) for waveform in waveforms]
    frames = torch.tensor([len(feature) for feature in features], device=features[0].device)
    padded = pad_sequence(features, batch_first=True)
    # Boolean on purpose: the encoder inverts the mask with ~, which is silently wrong for integers.
    mask = torch.arange(padded.shape[1], device=frames.device) < frames[:, None]
    hidden, _ = model.wav2vec2.feature_projection(padded)
    hidden = model.wav2vec2.encoder(hidden, attention_mask=mask)[0]
    logits = model.lm_head(hidden).float()
    return [row[:count] for row, count in zip(logits, frames.tolist(), strict=True)]


def decode_greedy(emission: torch.Tensor, blank: int) -> list[int]:
    """Return the labels of the best path of an emission, shape (frames, labels).

    Repeats are merged first, then blanks dropped, so that a blank keeps a double letter apart.
    Graves et al. 2006, "Connectionist Temporal Classification", section 3.2.
    """
    merged = torch.unique_consecutive(emission.argmax(dim=-1))
    return [index for index in merged.tolist() if index != blank]
