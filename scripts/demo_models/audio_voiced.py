"""Trains a small Wav2Vec2ForAudioFrameClassification to tell frames in which somebody speaks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2ForAudioFrameClassification

from demo_models import heads
from demo_models.audio_speakers import GRID, draw_conversation, sentences
from demo_models.augmentation import add_noise
from demo_models.conversations import Conversation, Spoken
from demo_models.espeak import SAMPLE_RATE_HZ, Waveform
from demo_models.speech_training import Recipe, fit

SEED = 6
RECIPE = Recipe(steps=800, peak_learning_rate=5e-4, max_gradient_norm=5.0, evaluate_every_steps=400)
LENGTH_S, BATCH_SIZE = 8.0, 5
# What is no speech: hums, beeps, clicks and bursts of noise, as loud as speech at most.
NO_SPEECH_CHANCE = 0.7


def sounds(samples: int, rng: np.random.Generator) -> Waveform:
    """Return sounds that are no speech, one after the other."""
    heard = np.zeros(samples, dtype=np.float32)
    place = 0
    while (place := place + int(rng.uniform(0.2, 2.0) * SAMPLE_RATE_HZ)) < samples:
        length = min(samples - place, int(rng.uniform(0.02, 1.0) * SAMPLE_RATE_HZ))
        time_s = np.arange(length) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * rng.uniform(60, 4_000) * time_s)
        noise = rng.standard_normal(length)
        share = rng.choice([0.0, 0.5, 1.0])
        envelope = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.005)
        loudness = 10 ** (rng.uniform(-45, -18) / 20)
        sound = (share * tone + (1 - share) * noise) * envelope * loudness
        heard[place : place + length] = sound
        place += length
    return heard


def frames_spoken(conversation: Conversation, frames: int, speakers: int = 4) -> Waveform:
    """Return 1 for each frame in which somebody speaks, shape (frames,)."""
    active: Waveform = conversation.activity(frames, GRID.stride, GRID.field, speakers).max(axis=1)
    return active


def draw_scene(
    spoken: Sequence[Sequence[Spoken]], length_s: float, rng: np.random.Generator
) -> Conversation:
    """Return a conversation amid other sounds, sometimes only those."""
    conversation = draw_conversation(spoken, length_s, rng)
    waveform, turns = conversation.waveform, conversation.turns
    if rng.random() < 0.1:
        silence = np.full_like(waveform, 1e-3)
        waveform, turns = add_noise(silence, 0.0, is_dark=rng.random() < 0.5, rng=rng), []
    if rng.random() < NO_SPEECH_CHANCE:
        waveform = waveform + sounds(len(waveform), rng)
    return Conversation(waveform / max(1.0, np.abs(waveform).max()), turns)


class VoicedTrainee:
    """The network, scenes that judge it while it learns, and the folder it is saved to."""

    def __init__(self, output_dir: Path, development: Sequence[Conversation]) -> None:
        torch.manual_seed(SEED)
        self.network = heads.start(
            Wav2Vec2ForAudioFrameClassification,
            num_labels=1,
            id2label={0: "speech"},
            label2id={"speech": 0},
        )
        self._development = development
        self._output_dir = output_dir

    def loss(self, batch: Sequence[Conversation]) -> Tensor:
        """Return the cross entropy of frames."""
        logits = heads.emit_frames(self.network, batch)[:, :, 0]
        spoken = [frames_spoken(each, logits.shape[1]) for each in batch]
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(np.stack(spoken))
        )

    def report(self) -> str:
        """Return the F1 of frames of speakers who are not trained on."""
        said, spoken = [], []
        for each in self._development:
            logits = heads.emit_frames(self.network, [each])[0, :, 0]
            said.append(logits > 0)
            spoken.append(torch.from_numpy(frames_spoken(each, len(logits))) > 0)
        both, either = torch.cat(said), torch.cat(spoken)
        f1 = 2 * int((both & either).sum()) / int(both.sum() + either.sum())
        return f"F1 of frames: {100 * f1:.1f} %"

    def save(self) -> None:
        """Write the model."""
        heads.save(self.network, self._output_dir)


def draw(
    spoken: Sequence[Sequence[Spoken]], rng: np.random.Generator
) -> Iterator[list[Conversation]]:
    """Yield batches of scenes of one length, without end."""
    while True:
        yield [draw_scene(spoken, LENGTH_S, rng) for _ in range(BATCH_SIZE)]


def train(output_dir: Path, workspace: Path) -> None:
    """Synthesise the speakers, train from the demo model of speech and write the model folder."""
    spoken = {name: sentences(name, workspace) for name in ("training", "development")}
    rng = np.random.default_rng(SEED)
    development = [draw_scene(spoken["development"], LENGTH_S, rng) for _ in range(60)]
    fit(VoicedTrainee(output_dir, development), RECIPE, draw(spoken["training"], rng))
