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
# What a frame sees on each side of its centre.
REACH_SAMPLES = WINDOW_SAMPLES // 2
# The shortest waveform that gives four frames, of which the encoder makes one.
MIN_SAMPLES = 3 * HOP_SAMPLES
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
            center=False,
        )
        self.power_gain = POWER_GAIN
        self.register_buffer("mean", mean)
        self.register_buffer("inverse_deviation", inverse_deviation)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Return features of shape (..., frames, 80) for the samples of whole frames, at 16 kHz.

        The first frame is that of the first 400 samples; each next one begins 160 samples later.
        """
        power = self.mel(samples).transpose(-1, -2) * self.power_gain
        # Logarithmic above e, then linear up to e: torchaudio divides small logarithms by e too,
        # and its published model was trained on that.
        scaled = torch.where(power > math.e, power.clamp(min=math.e).log(), power)
        scaled = torch.where(scaled > math.e, scaled, scaled / math.e)
        return (scaled - self.mean) * self.inverse_deviation


def count_frames(samples: int, ended: bool = True) -> int:
    """Return how many frames a waveform has, or has so far while more of it is to come.

    One that ended is extended with silence to four frames.
    """
    if ended:
        return max(samples, MIN_SAMPLES) // HOP_SAMPLES + 1
    # The first frame sees the waveform mirrored at its beginning.
    return (samples - REACH_SAMPLES) // HOP_SAMPLES + 1 if samples > REACH_SAMPLES else 0


def count_whole_frames(samples: int) -> int:
    """Return how many frames so many samples are all that is seen of."""
    return (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1


def cut_frames(waveform: torch.Tensor, first_sample: int, start: int, stop: int) -> torch.Tensor:
    """Return the samples that the frames from `start` to `stop` of a waveform see.

    `waveform`, of shape (samples,), begins at `first_sample` of the whole. At its two ends it is
    mirrored, as torchaudio does.
    """
    low, high = start * HOP_SAMPLES - REACH_SAMPLES, (stop - 1) * HOP_SAMPLES + REACH_SAMPLES
    missing = MIN_SAMPLES - first_sample - len(waveform)
    if missing > 0 and high > first_sample + len(waveform):
        waveform = torch.nn.functional.pad(waveform, (0, missing))
    # One sample behind the first frame may be needed for its mirrored half.
    high = max(high, REACH_SAMPLES + 1)
    samples = waveform[max(0, low - first_sample) : high - first_sample]
    mirrored = (max(0, -low), high - max(0, low) - len(samples))
    if mirrored == (0, 0):
        return samples
    return torch.nn.functional.pad(samples[None], mirrored, "reflect")[0]


def whole_features(front_end: torch.nn.Module, waveform: torch.Tensor) -> torch.Tensor:
    """Return features of shape (frames + 4, 80) for a waveform of shape (samples,) at 16 kHz.

    The last four frames are the silent right context that ends an utterance.
    """
    samples = cut_frames(waveform, 0, 0, count_frames(len(waveform)))
    features: torch.Tensor = front_end(samples)
    return torch.nn.functional.pad(features, (0, 0, 0, RIGHT_CONTEXT_FRAMES))


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
