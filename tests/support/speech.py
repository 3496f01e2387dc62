"""What tests of speech recognition share."""

import torch

from speechtext.speech.ctc.emissions import measure_normalization


def normalize(waveform: torch.Tensor) -> torch.Tensor:
    """Return a waveform with zero mean and unit variance, as Wav2Vec2 takes it."""
    return measure_normalization(waveform).apply(waveform)
