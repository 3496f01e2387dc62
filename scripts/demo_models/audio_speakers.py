"""Trains a small Wav2Vec2ForAudioFrameClassification to tell who speaks when.

It numbers up to four speakers in an order of its own, so its loss is that of the best order: Fujita
et al. 2019, "End-to-End Neural Speaker Diarization with Permutation-free Objectives".
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2ForAudioFrameClassification

from demo_models import heads, speakers
from demo_models.conversations import Conversation, Spoken, converse
from demo_models.speaker_scores import diarization_error_rate
from demo_models.speech_training import Recipe, fit
from speechtext.speech.chunks import FrameGrid

SEED = 5
RECIPE = Recipe(
    steps=4_500, peak_learning_rate=1e-3, max_gradient_norm=5.0, evaluate_every_steps=500
)
SPEAKERS = 4
# Frames of the demo model of speech.
GRID = FrameGrid(field=752, stride=320)
LENGTHS_S = (6.0, 16.0)
BATCH_DURATION_S = 44.0
ORDERS = torch.tensor(list(itertools.permutations(range(SPEAKERS))))


def permutation_free_loss(logits: Tensor, active: Tensor) -> Tensor:
    """Return the cross entropy in the best order; both have shape (batch, frames, speakers)."""
    pairs = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, :, :, None].expand(-1, -1, -1, SPEAKERS),
        active[:, :, None, :].expand(-1, -1, SPEAKERS, -1),
        reduction="none",
    ).mean(dim=1)
    orders = pairs[:, torch.arange(SPEAKERS), ORDERS].mean(dim=-1)
    return orders.min(dim=1).values.mean()


class SpeakersTrainee:
    """The network, conversations that judge it while it learns, and the folder it is saved to."""

    def __init__(self, output_dir: Path, development: Sequence[Conversation]) -> None:
        torch.manual_seed(SEED)
        names = [f"speaker {number}" for number in range(1, SPEAKERS + 1)]
        self.network = heads.start(
            Wav2Vec2ForAudioFrameClassification,
            num_labels=SPEAKERS,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
        self._development = development
        self._output_dir = output_dir

    def loss(self, batch: Sequence[Conversation]) -> Tensor:
        """Return the permutation-free cross entropy."""
        logits = heads.emit_frames(self.network, batch)
        return permutation_free_loss(logits, self._activity(batch, logits.shape[1]))

    def _activity(self, batch: Sequence[Conversation], frames: int) -> Tensor:
        active = [each.activity(frames, GRID.stride, GRID.field, SPEAKERS) for each in batch]
        return torch.from_numpy(np.stack(active))

    def report(self) -> str:
        """Return the diarisation error rate of windows of speakers who are not trained on."""
        said, true = [], []
        for each in self._development:
            logits = heads.emit_frames(self.network, [each])[0]
            said.append((logits > 0).numpy())
            true.append(self._activity([each], len(logits))[0].numpy() > 0)
        rate = diarization_error_rate(said, true)
        return f"diarisation error rate of windows: {100 * rate:.1f} %"

    def save(self) -> None:
        """Write the model."""
        heads.save(self.network, self._output_dir)


def draw(
    spoken: Sequence[Sequence[Spoken]], rng: np.random.Generator
) -> Iterator[list[Conversation]]:
    """Yield batches of conversations of one length, without end."""
    while True:
        length_s = round(float(rng.uniform(*LENGTHS_S)))
        count = int(BATCH_DURATION_S / length_s)
        yield [draw_conversation(spoken, length_s, rng) for _ in range(count)]


def draw_conversation(
    spoken: Sequence[Sequence[Spoken]], length_s: float, rng: np.random.Generator
) -> Conversation:
    """Return a conversation of one to four of the speakers."""
    chosen = rng.choice(len(spoken), rng.choice([1, 2, 2, 3, 3, 4]), replace=False)
    return converse([spoken[each] for each in chosen], length_s, rng)


def train(output_dir: Path, workspace: Path) -> None:
    """Train from the demo model of speech and write the model folder."""
    spoken = {name: sentences(name, workspace) for name in ("training", "development")}
    rng = np.random.default_rng(SEED)
    development = [draw_conversation(spoken["development"], 12.0, rng) for _ in range(60)]
    trainee = SpeakersTrainee(output_dir, development)
    fit(trainee, RECIPE, draw(spoken["training"], rng))


def sentences(name: str, workspace: Path) -> list[list[Spoken]]:
    """Return what each speaker of a set says, without the silence around it."""
    return [
        [Spoken(heads.trim(each), each.text) for each in own]
        for own in speakers.utterances(name, workspace)
    ]
