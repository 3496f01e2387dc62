"""What the trainings of heads share: the demo model of speech, which each of them starts from."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor
from transformers.utils.logging import disable_progress_bar

from demo_models.augmentation import add_echo, add_noise, tilt_spectrum
from demo_models.conversations import Conversation
from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, Waveform, to_float
from demo_models.speech_corpus import Utterance
from repository import ROOT

START = ROOT / "demo_models" / "wav2vec2"
EXTRACTOR = Wav2Vec2FeatureExtractor(
    sampling_rate=SAMPLE_RATE_HZ, do_normalize=True, return_attention_mask=True
)


def start(auto_class: Any, folder: Path = START, **config: Any) -> Any:
    """Return a network with a new head on the encoder of a folder."""
    torch.set_num_threads(1)
    disable_progress_bar()
    network = auto_class.from_pretrained(
        folder, dtype=torch.float32, ignore_mismatched_sizes=True, **config
    )
    # With heads of 36 numbers, plain attention trains faster on a CPU than fused kernels.
    network.set_attn_implementation("eager")
    return network


def save(network: Any, output_dir: Path) -> None:
    """Write a copy in half precision, and its feature extractor."""
    half = copy.deepcopy(network).half()
    half.save_pretrained(output_dir)
    EXTRACTOR.save_pretrained(output_dir)


def normalise(waveforms: Sequence[Waveform]) -> Tensor:
    """Return waveforms of one length as the models take them, shape (batch, samples)."""
    stacked = torch.from_numpy(np.stack(waveforms))
    spread = stacked.var(dim=1, keepdim=True, correction=0) + 1e-7
    return (stacked - stacked.mean(dim=1, keepdim=True)) / spread.sqrt()


def emit_frames(network: Any, batch: Sequence[Conversation]) -> Tensor:
    """Return the logits of the frames of conversations of one length: (batch, frames, labels)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(normalise([each.waveform for each in batch])).logits
    return logits.float()


def trim(utterance: Utterance, floor: float = 0.01) -> Int16Waveform:
    """Return an utterance without the silence at its ends, of what is below a share of its peak."""
    samples = np.abs(utterance.waveform.astype(np.int32))
    (loud,) = np.nonzero(samples > floor * samples.max())
    trimmed: Int16Waveform = utterance.waveform[loud[0] : loud[-1] + 1]
    return trimmed


def crop(spoken: Sequence[Int16Waveform], samples: int, rng: np.random.Generator) -> Int16Waveform:
    """Return so many samples of what one speaker says, from anywhere in it."""
    order = rng.permutation(len(spoken))
    repeats = -(-samples // min(map(len, spoken)))
    chosen = [spoken[place] for place in np.tile(order, repeats)[:repeats]]
    joined: Int16Waveform = np.concatenate(chosen)
    first = int(rng.integers(0, len(joined) - samples + 1))
    cropped: Int16Waveform = joined[first : first + samples]
    return cropped


def hear(samples: Int16Waveform, rng: np.random.Generator) -> Waveform:
    """Return samples as a microphone has them: as fast as they were, for that is of a voice."""
    waveform = to_float(samples)
    if rng.random() < 0.4:
        waveform = tilt_spectrum(waveform, rng.uniform(-0.3, 0.3))
    if rng.random() < 0.2:
        waveform = add_echo(waveform, int(rng.integers(80, 1200)), rng.uniform(0.1, 0.3))
    if rng.random() < 0.8:
        waveform = add_noise(waveform, rng.uniform(8, 40), is_dark=rng.random() < 0.4, rng=rng)
    return waveform
