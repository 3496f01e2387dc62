"""The acoustic front end of torchaudio's Emformer RNN-T: log-mel features, normalised."""

import json
import math
from pathlib import Path

import torch
import torchaudio

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
MEL_BINS = 80
RIGHT_CONTEXT_FRAMES = 4
# The shortest waveform that gives the encoder a whole segment of 16 frames.
MIN_SAMPLES = 16 * HOP_SAMPLES
# Power of a 16-bit full-scale signal, which the bundle's training features were scaled by.
POWER_GAIN = torch.iinfo(torch.int16).max ** 2


class LogMelFeatures(torch.nn.Module):
    """Turns a waveform into the features that `EMFORMER_RNNT_BASE_LIBRISPEECH` was trained on.

    `mean` and `inverse_deviation` have shape (80,): the statistics of the training features.
    """

    mean: torch.Tensor
    inverse_deviation: torch.Tensor

    def __init__(self, mean: torch.Tensor, inverse_deviation: torch.Tensor) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=WINDOW_SAMPLES,
            n_mels=MEL_BINS,
            hop_length=HOP_SAMPLES,
        )
        self.register_buffer("mean", mean)
        self.register_buffer("inverse_deviation", inverse_deviation)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return features of shape (frames + 4, 80) for a waveform of shape (samples,) at 16 kHz.

        The last four frames are the silent right context that ends an utterance.
        """
        missing = max(0, MIN_SAMPLES - waveform.size(0))
        power = self.mel(torch.nn.functional.pad(waveform, (0, missing))).T * POWER_GAIN
        # Logarithmic above e, then linear up to e: torchaudio divides small logarithms by e too,
        # and its published model was trained on that.
        scaled = torch.where(power > math.e, power.clamp(min=math.e).log(), power)
        scaled = torch.where(scaled > math.e, scaled, scaled / math.e)
        normalized = (scaled - self.mean) * self.inverse_deviation
        return torch.nn.functional.pad(normalized, (0, 0, 0, RIGHT_CONTEXT_FRAMES))


def load_features(statistics: Path) -> LogMelFeatures:
    """Return the front end with the global statistics of a JSON file (`mean`, `invstddev`).

    Raises `ValueError` with one sentence where the file is missing or has another shape.
    """
    try:
        stored = json.loads(statistics.read_text())
        mean, inverse_deviation = (torch.tensor(stored[key]) for key in ("mean", "invstddev"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{statistics.name} must be in the archive and hold the lists mean and invstddev."
        ) from error
    if mean.shape != (MEL_BINS,) or inverse_deviation.shape != (MEL_BINS,):
        raise ValueError(f"{statistics.name} must hold {MEL_BINS} means and inverse deviations.")
    return LogMelFeatures(mean, inverse_deviation)
