"""What the text trainings share: sizes, batches, the loop and how a model is written.

Data is generated as the loop asks for it, so no sentence is a memory: every step sees new ones.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

from demo_models.progress import Progress

SEED = 20_240_917
MAX_POSITIONS = 512
IGNORED_LABEL = -100

_SLOWEST_WAVE = 200.0
"""Wavelengths run from 2π to 2π times this: from a few positions to all of them."""
_SHIFTED_SHARE = 0.1

Batch = dict[str, torch.Tensor]
"""Keyword arguments of a model's forward, each of shape (examples, tokens) or (examples,)."""


@dataclass(frozen=True)
class TextRecipe:
    """How long and how fast a text model learns."""

    steps: int
    batch_size: int
    peak_learning_rate: float = 1.5e-3
    warmup_steps: int = 150
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0


def bert_config(vocabulary_size: int, labels: Sequence[str] = (), layers: int = 4) -> BertConfig:
    """Describe a BERT of about a million parameters."""
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_POSITIONS,
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return config


def start_from_waves(positions: nn.Embedding) -> None:
    """Initialise learned positions as sine waves, so that neighbours look alike everywhere.

    Positions beyond the lengths seen in training then still mean something.
    """
    count, width = positions.weight.shape
    rates = torch.exp(-torch.arange(0, width, 2) / width * torch.log(torch.tensor(_SLOWEST_WAVE)))
    angles = torch.arange(count)[:, None] * rates
    waves = torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(count, width)
    with torch.no_grad():
        positions.weight.copy_(0.07 * waves)


def shifted_positions(rng: random.Random, batch: Batch) -> torch.Tensor:
    """Return positions, (1, tokens), now and then from a random offset instead of zero."""
    length = batch["input_ids"].shape[1]
    shifted = rng.random() < _SHIFTED_SHARE
    offset = rng.randint(0, MAX_POSITIONS - length) if shifted else 0
    return torch.arange(offset, offset + length)[None]


def sentences_per_text(rng: random.Random, batch_size: int) -> tuple[int, int]:
    """Draw how long the texts of a batch are, in sentences, and how many of them it takes.

    Texts of one length share a batch, so that little is padding; long ones come in small batches.
    """
    sentences = rng.choices((1, 2, 3, 4, 12), (40, 30, 15, 10, 5))[0]
    return sentences, max(4, 2 * batch_size // (sentences + 1))


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    recipe: TextRecipe,
    task: str,
) -> None:
    """Train a model on the first batches of an endless row."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    progress = Progress(task, recipe.steps)
    smoothed_loss = 0.0
    model.train()
    for step, batch in enumerate(islice(batches, recipe.steps), start=1):
        loss = model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        schedule.step()
        smoothed_loss += (loss.item() - smoothed_loss) / min(step, 50)
        progress.report_now_and_then(step, f"loss {smoothed_loss:.4f}")
    model.train(False)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights in half the size, float16, and the configuration to load them as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_label_names(labels: Sequence[str], folder: Path) -> None:
    """Write the label map that goes into the archive."""
    names = {str(index): label for index, label in enumerate(labels)}
    (folder / "index_to_name.json").write_text(json.dumps(names, indent=2) + "\n")


def corpus(draw_text: Callable[[], str], count: int = 40_000) -> Iterator[str]:
    """Yield the texts that a tokenizer is trained on."""
    return (draw_text() for _ in range(count))
