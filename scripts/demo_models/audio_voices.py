"""Trains a small Wav2Vec2ForXVector to tell the voices of espeak-ng from each other.

It learns to name the speakers of the training set; what it answers for others is how it hears them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2ForXVector

from demo_models import heads, speakers
from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, Waveform, to_float
from demo_models.speaker_scores import find_equal_error
from demo_models.speech_training import Recipe, fit

SEED = 3
RECIPE = Recipe(
    steps=3_000, peak_learning_rate=2e-3, max_gradient_norm=5.0, evaluate_every_steps=500
)
BATCH_DURATION_S = 40.0
SHORTEST_S, LONGEST_S = 0.8, 3.0
EMBEDDING_SIZE = 96

Batch = tuple[list[Waveform], list[int]]


class VoicesTrainee:
    """The network, the voices that judge it while it learns, and the folder it is saved to."""

    def __init__(
        self, output_dir: Path, count: int, development: Sequence[Sequence[Int16Waveform]]
    ) -> None:
        torch.manual_seed(SEED)
        self.network = heads.start(
            Wav2Vec2ForXVector,
            num_labels=count,
            tdnn_dim=(128, 128, 128, 128, 256),
            xvector_output_dim=EMBEDDING_SIZE,
            use_weighted_layer_sum=True,
        )
        # What is compared is what the loss is of, with a margin that so small a network can keep.
        classifier = self.network.classifier
        torch.nn.init.eye_(classifier.weight)
        torch.nn.init.zeros_(classifier.bias)
        classifier.requires_grad_(False)
        # Directions that turn within the steps that there are.
        self.network.objective.weight.data.mul_(0.1)
        self.network.objective.scale, self.network.objective.margin = 20.0, 0.1
        self._development = development
        self._output_dir = output_dir

    @torch.no_grad()
    def scale_head(self, batch: Batch) -> None:
        """Start with layers whose outputs have a deviation of 1 on a batch, and voices a mean of 0.

        As transformers starts them, each makes less of what it gets, and all voices are alike.
        Mishkin and Matas 2016, "All you need is a good init".
        """
        network = self.network
        layers = [(network.projector, network.projector)]
        layers += [(each, each.kernel) for each in network.tdnn]
        layers += [(network.feature_extractor, network.feature_extractor)]
        for module, linear in layers:
            torch.nn.init.orthogonal_(linear.weight)
            linear.weight.div_(self._outputs(module, batch).std())
        linear.bias.sub_(self._outputs(module, batch).mean(dim=0))

    def _outputs(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        """Return what a layer makes of a batch, shape (rows, values)."""
        seen: list[Tensor] = []
        hook = module.register_forward_hook(lambda _, __, found: seen.append(found))
        self.network(heads.normalise(batch[0]))
        hook.remove()
        return seen[0].flatten(end_dim=-2)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of naming the speaker: Wang et al. 2018, "Additive Margin Softmax"."""
        waveforms, names = batch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.network(heads.normalise(waveforms), labels=torch.tensor(names))
        loss: Tensor = found.loss.float()
        return loss

    def report(self) -> str:
        """Return the equal error rate of speakers who are not trained on."""
        rows = [(number, each) for number, own in enumerate(self._development) for each in own]
        voices = torch.stack([self._embed(each) for _, each in rows])
        rate = find_equal_error(voices, [number for number, _ in rows]).rate
        return f"equal error rate: {100 * rate:.1f} %"

    def _embed(self, samples: Int16Waveform) -> Tensor:
        embedding: Tensor = self.network(heads.normalise([to_float(samples)])).embeddings[0]
        return torch.nn.functional.normalize(embedding, dim=0)

    def save(self) -> None:
        """Write the model without the speakers of its training, but two."""
        objective, config = self.network.objective.weight, self.network.config
        labels = dict(config.id2label)
        self.network.objective.weight = torch.nn.Parameter(objective.detach()[:, :2].clone())
        config.num_labels = 2
        heads.save(self.network, self._output_dir)
        self.network.objective.weight, config.id2label = objective, labels


def draw(spoken: Sequence[Sequence[Int16Waveform]], rng: np.random.Generator) -> Iterator[Batch]:
    """Yield batches of crops of one length and the numbers of their speakers, without end."""
    while True:
        samples = int(rng.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE_HZ) // 1_600 * 1_600
        count = int(BATCH_DURATION_S * SAMPLE_RATE_HZ / samples)
        names = rng.choice(len(spoken), count, replace=False)
        crops = [heads.crop(spoken[name], samples, rng) for name in names]
        yield [heads.hear(each, rng) for each in crops], names.tolist()


def train(output_dir: Path, workspace: Path) -> None:
    """Synthesise the speakers, train from the demo model of speech and write the model folder."""
    spoken = trimmed("training", workspace)
    trainee = VoicesTrainee(output_dir, len(spoken), trimmed("development", workspace))
    drawn = draw(spoken, np.random.default_rng(SEED))
    trainee.scale_head(next(drawn))
    fit(trainee, RECIPE, drawn)


def trimmed(name: str, workspace: Path) -> list[list[Int16Waveform]]:
    """Return what each speaker of a set says, without the silence around it."""
    return [[heads.trim(each) for each in own] for own in speakers.utterances(name, workspace)]
