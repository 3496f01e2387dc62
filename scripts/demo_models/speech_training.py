"""What the speech trainings share: the schedule, averaged weights, batches and the loop itself.

A recipe counts steps, never minutes, so that it gives the same model on a slower machine.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from demo_models.augmentation import longest_augmented_s
from demo_models.progress import Progress
from demo_models.speech_corpus import Utterance, word_error_rate

Batch = TypeVar("Batch")
Batch_contra = TypeVar("Batch_contra", contravariant=True)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to learn."""

    steps: int
    peak_learning_rate: float
    max_gradient_norm: float
    warmup_steps: int = 200
    hold_share: float = 0.3
    floor_share: float = 0.01
    weight_decay: float = 0.01
    average_decay: float = 0.999
    evaluate_every_steps: int = 500


class Trainee(Protocol[Batch_contra]):
    """A model under training."""

    @property
    def network(self) -> nn.Module:
        """Everything that is optimised."""
        ...

    def loss(self, batch: Batch_contra) -> torch.Tensor:
        """Return the scalar loss of a batch."""
        ...

    def report(self) -> str:
        """Return how the model as it is now does with what it is not trained on."""
        ...

    def save(self) -> None:
        """Write the model as it is now to where it is served from."""
        ...


def learning_rate(step: int, recipe: Recipe) -> float:
    """Rise linearly, hold, then fall along a cosine to a small share of the peak."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    fall = max(0.0, (step / recipe.steps - recipe.hold_share) / (1 - recipe.hold_share))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
    return recipe.peak_learning_rate * warmup * max(recipe.floor_share, cosine)


class AveragedWeights:
    """Exponential moving average of a network's parameters, which scores better than any of them.

    The decay grows from zero, so that early averages do not remember the random start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters: list[torch.Tensor] = list(network.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 10))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network compute with the averages inside the `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)


def batches(
    utterances: Sequence[Utterance], limit_s: float, rng: random.Random
) -> Iterator[list[Utterance]]:
    """Yield batches of similar lengths, shuffled, epoch after epoch without end.

    A batch lasts at most `limit_s` seconds when padded to its longest augmented utterance.
    """
    pool_size = 1024
    order = list(utterances)
    while True:
        rng.shuffle(order)
        epoch: list[list[Utterance]] = []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda u: u.duration_s)
            epoch += _cut_by_duration(pool, limit_s)
        rng.shuffle(epoch)
        yield from epoch


def _cut_by_duration(ascending: list[Utterance], limit_s: float) -> Iterator[list[Utterance]]:
    batch: list[Utterance] = []
    for utterance in ascending:
        if batch and (len(batch) + 1) * longest_augmented_s(utterance.duration_s) > limit_s:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


def shortest_first(
    drawn: Iterator[list[Utterance]], count: int, drawn_per_kept: int = 2
) -> list[list[Utterance]]:
    """Take the shortest `count` of some batches, ascending: alignments are found there first."""
    ascending = sorted(islice(drawn, count * drawn_per_kept), key=lambda b: b[-1].duration_s)
    return ascending[:count]


def fit(trainee: Trainee[Batch], recipe: Recipe, drawn: Iterable[Batch]) -> None:
    """Train for the recipe's steps; now and then and at the end score and save the averages."""
    optimizer = _optimizer(trainee.network, recipe)
    averaged = AveragedWeights(trainee.network, recipe.average_decay)
    progress = Progress("training", recipe.steps)
    smoothed_loss = 0.0
    trainee.network.train()
    for step, batch in enumerate(islice(drawn, recipe.steps), start=1):
        loss = _step(trainee, batch, optimizer, learning_rate(step - 1, recipe), recipe)
        averaged.update()
        smoothed_loss += (loss - smoothed_loss) / min(step, 100)
        progress.report_now_and_then(step, f"loss {smoothed_loss:.3f}")
        if step % recipe.evaluate_every_steps == 0 or step == recipe.steps:
            with averaged.in_place():
                print(f"  {_report(trainee)}", flush=True)
                trainee.save()


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Decay the weights, but neither biases nor normalisation."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, betas=(0.9, 0.98))


def _step(
    trainee: Trainee[Batch],
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    rate: float,
    recipe: Recipe,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = trainee.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(trainee.network.parameters(), recipe.max_gradient_norm)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def _report(trainee: Trainee[Any]) -> str:
    trainee.network.eval()
    said = trainee.report()
    trainee.network.train()
    return said


def report_errors(
    transcribe: Callable[[Sequence[Utterance]], list[str]],
    development: Mapping[str, Sequence[Utterance]],
) -> str:
    """Return the word error rate of each set of utterances."""
    rates = {
        name: word_error_rate([u.text for u in utterances], transcribe(utterances))
        for name, utterances in development.items()
    }
    return "word error rate: " + ", ".join(f"{name} {rate:.1f} %" for name, rate in rates.items())
