"""`bert_token_classification`: find the names of people, organisations and places."""

import random
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import BertForTokenClassification, BertTokenizer

from demo_models.text_frames import Example, Passage, Split, kind_of
from demo_models.text_news import ENTITY_TYPES, news
from demo_models.text_tokenizers import train_wordpiece
from demo_models.text_training import (
    IGNORED_LABEL,
    SEED,
    Batch,
    TextRecipe,
    bert_config,
    corpus,
    fit,
    save,
    sentences_per_text,
    shifted_positions,
    start_from_waves,
    write_label_names,
)

LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
RECIPE = TextRecipe(steps=4000, batch_size=64)
_VOCABULARY_SIZE = 3000


class Entity(NamedTuple):
    """Characters `start` to `end` (exclusive) of the text, and PER, ORG or LOC."""

    start: int
    end: int
    type: str


def train(output_dir: Path, workspace: Path) -> None:  # noqa: ARG001 - every demo model's signature
    """Train the model from nothing and write it to `output_dir`; nothing is kept elsewhere."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    texts = corpus(lambda: news(rng, Split.TRAINING).text)
    tokenizer = train_wordpiece(texts, _VOCABULARY_SIZE, lower_case=False)
    model = BertForTokenClassification(bert_config(len(tokenizer), LABELS, layers=3))
    start_from_waves(model.bert.embeddings.position_embeddings)
    fit(model, (draw_batch(rng, tokenizer) for _ in repeat(None)), RECIPE, output_dir.name)
    save(model, tokenizer, output_dir)
    write_label_names(LABELS, output_dir)


def draw_batch(rng: random.Random, tokenizer: BertTokenizer) -> Batch:
    """Write news and label every piece; some batches lack the last stop."""
    sentences, texts_per_batch = sentences_per_text(rng, RECIPE.batch_size)
    passages = [news(rng, Split.TRAINING, sentences) for _ in range(texts_per_batch)]
    texts = [passage.text for passage in passages]
    if rng.random() < 0.2:
        texts = [text.rstrip(".") for text in texts]
    encoded = tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping").tolist()
    labels = [_label_pieces(o, entities_of(p)) for o, p in zip(offsets, passages, strict=True)]
    batch: Batch = dict(encoded)
    return batch | {
        "labels": torch.tensor(labels),
        "position_ids": shifted_positions(rng, batch),
    }


def _label_pieces(offsets: Sequence[tuple[int, int]], entities: Sequence[Entity]) -> list[int]:
    """Return a label id per piece; special tokens and padding, which cover nothing, count not."""
    labels = []
    for start, end in offsets:
        entity = next((e for e in entities if e.start <= start < e.end), None)
        if start == end:
            labels.append(IGNORED_LABEL)
        elif entity is None:
            labels.append(LABELS.index("O"))
        else:
            prefix = "B" if start == entity.start else "I"
            labels.append(LABELS.index(f"{prefix}-{entity.type}"))
    return labels


def entities_of(passage: Passage) -> tuple[Entity, ...]:
    """Return the gold entities of a news passage, in the order of the text."""
    return tuple(
        Entity(span.start, span.end, ENTITY_TYPES[kind])
        for span in passage.spans
        if (kind := kind_of(span.slot)) in ENTITY_TYPES
    )


def entities_from_labels(pairs: Iterable[Sequence[str]], text: str) -> tuple[Entity, ...]:
    """Find the characters that labelled tokens cover, and join them to entities.

    `pairs` are `[token, label]`; tokens are looked up in the text from left to right, without
    `##` and regardless of case. A word's label is its first piece's; an `I-` that continues
    nothing of its type begins an entity.
    """
    entities: list[Entity] = []
    folded, cursor, previous = text.lower(), 0, "O"
    for token, label in pairs:
        continues_word = token.startswith("##")
        piece = token.removeprefix("##").lower()
        start = folded.find(piece, cursor)
        if start < 0:
            continue
        cursor = start + len(piece)
        label = previous if continues_word else label
        if label != "O":
            extends = continues_word or (label[0] == "I" and previous[2:] == label[2:])
            first = entities.pop().start if extends else start
            entities.append(Entity(first, cursor, label[2:]))
        previous = label
    return tuple(entities)


def held_out(count: int, seed: int) -> list[Example[str, tuple[Entity, ...]]]:
    """Write news of one or two sentences whose frames and names were never trained on."""
    rng = random.Random(seed)
    passages = (news(rng, Split.HELD_OUT, rng.choice((1, 1, 2))) for _ in range(count))
    return [Example(passage.text, entities_of(passage)) for passage in passages]


def score(
    answers: Sequence[Sequence[Sequence[str]]],
    examples: Sequence[Example[str, tuple[Entity, ...]]],
) -> dict[str, float]:
    """Return precision, recall and F1 in percent; an entity counts if span and type are exact."""
    found = right = wanted = 0
    for pairs, example in zip(answers, examples, strict=True):
        predicted, gold = set(entities_from_labels(pairs, example.payload)), set(example.answer)
        found, wanted = found + len(predicted), wanted + len(gold)
        right += len(predicted & gold)
    return {
        "entity_precision": 100 * right / max(found, 1),
        "entity_recall": 100 * right / max(wanted, 1),
        "entity_f1": 200 * right / max(found + wanted, 1),
    }
