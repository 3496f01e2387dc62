"""`bert_seq_classification`: tell whether a review is favourable, "Accepted"."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import BertForSequenceClassification, BertTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from demo_models.text_frames import Example, Passage, Split
from demo_models.text_reviews import NATURAL, NEGATING, PLAIN, SAYINGS, Style, review, saying_of
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

LABELS = ("Not Accepted", "Accepted")
RECIPE = TextRecipe(steps=2000, batch_size=64)
_CURRICULUM = ((PLAIN, 150), (NEGATING, 300), (NATURAL, 350))
_VOCABULARY_SIZE = 3000
_SAYING_LAYER = 2
"""The second of three layers: the last one puts the words together to a verdict."""


class _WordReader(nn.Module):
    """The classifier under training, with a second head that is thrown away.

    The second head tells from each piece of a word of favour how it takes part in the verdict.
    One label per review says too little about "not" and "but": what they do is the product of two
    things, and no single word's gradient points at it.
    """

    def __init__(self, classifier: BertForSequenceClassification) -> None:
        super().__init__()
        self.classifier = classifier
        self.saying_head = nn.Linear(classifier.config.hidden_size, SAYINGS)

    def forward(
        self, saying_labels: torch.Tensor, **batch: torch.Tensor
    ) -> SequenceClassifierOutput:
        """Return the sum of both heads' losses; `saying_labels` is (examples, tokens)."""
        outputs = self.classifier(**batch, output_hidden_states=True)
        sayings = self.saying_head(outputs.hidden_states[_SAYING_LAYER])
        loss = outputs.loss + nn.functional.cross_entropy(
            sayings.flatten(0, 1), saying_labels.flatten(), ignore_index=IGNORED_LABEL
        )
        return SequenceClassifierOutput(loss=loss, logits=outputs.logits)


def train(output_dir: Path, workspace: Path) -> None:  # noqa: ARG001 - every demo model's signature
    """Train the model from nothing and write it to `output_dir`; nothing is kept elsewhere."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    texts = corpus(lambda: review(rng, Split.TRAINING, rng.random() < 0.5).text)
    tokenizer = train_wordpiece(texts, _VOCABULARY_SIZE, lower_case=True)
    model = BertForSequenceClassification(bert_config(len(tokenizer), LABELS, layers=3))
    start_from_waves(model.bert.embeddings.position_embeddings)
    fit(_WordReader(model), batches(rng, tokenizer), RECIPE, output_dir.name)
    save(model, tokenizer, output_dir)
    write_label_names(LABELS, output_dir)


def batches(rng: random.Random, tokenizer: BertTokenizer) -> Iterator[Batch]:
    """Yield easy reviews first: words must mean something before "not" and "but" can turn them."""
    for style, steps in _CURRICULUM:
        for _ in range(steps):
            yield draw_batch(rng, tokenizer, style, 1, RECIPE.batch_size)
    while True:
        sentences, texts_per_batch = sentences_per_text(rng, RECIPE.batch_size)
        yield draw_batch(rng, tokenizer, NATURAL, sentences, texts_per_batch)


def draw_batch(
    rng: random.Random, tokenizer: BertTokenizer, style: Style, sentences: int, texts_per_batch: int
) -> Batch:
    """Write new reviews; some batches lose their final stops, as typed texts do."""
    labels = [rng.randrange(2) for _ in range(texts_per_batch)]
    reviews = [review(rng, Split.TRAINING, label == 1, sentences, style) for label in labels]
    texts = [told.text for told in reviews]
    if rng.random() < 0.3:
        texts = [text.rstrip(".!") for text in texts]
    encoded = tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping").tolist()
    sayings = [_label_pieces(o, told) for o, told in zip(offsets, reviews, strict=True)]
    batch: Batch = dict(encoded)
    return batch | {
        "labels": torch.tensor(labels),
        "saying_labels": torch.tensor(sayings),
        "position_ids": shifted_positions(rng, batch),
    }


def _label_pieces(offsets: Sequence[tuple[int, int]], told: Passage) -> list[int]:
    """Return what each piece of a word of favour says; nothing for the others."""
    labels = [IGNORED_LABEL] * len(offsets)
    for span in told.spans:
        for index, (start, end) in enumerate(offsets):
            if span.start <= start < end <= span.end:
                labels[index] = saying_of(span)
    return labels


def held_out(count: int, seed: int) -> list[Example[str, str]]:
    """Write reviews of one or two sentences whose frames, nouns and names were never trained on."""
    rng = random.Random(seed)
    examples = []
    for _ in range(count):
        label = rng.randrange(2)
        told = review(rng, Split.HELD_OUT, label == 1, rng.choice((1, 1, 2)))
        examples.append(Example(told.text, LABELS[label]))
    return examples


def score(answers: Sequence[str], examples: Sequence[Example[str, str]]) -> dict[str, float]:
    """Return the accuracy in percent."""
    right = sum(a == e.answer for a, e in zip(answers, examples, strict=True))
    return {"accuracy": 100 * right / len(examples)}
