"""`bert_question_answering`: find the words of a context that answer a question."""

import random
import re
import string
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import BertForQuestionAnswering, BertTokenizer
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from demo_models.text_facts import ROLES, Inquiry, inquiry
from demo_models.text_frames import Example, Span, Split, kind_of
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
    shifted_positions,
    start_from_waves,
)

RECIPE = TextRecipe(steps=9000, batch_size=64)
_SENTENCES, _SENTENCE_WEIGHTS = (1, 2, 3), (40, 50, 10)
"""How long the contexts are: which of two facts is asked about is what takes long to learn."""
_VOCABULARY_SIZE = 3000
_ROLE_LAYER, _EVIDENCE_LAYER = 2, 3
"""Out of four: first who is who, then what is asked about, then the answer."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _EvidenceReader(nn.Module):
    """The model under training, with two more heads that are thrown away.

    One tells the role of each piece of the context, and on the question's pieces the role that is
    asked for; the other marks the fact that the question is about. The answer is where both meet,
    which start and end alone take much longer to show.
    """

    def __init__(self, reader: BertForQuestionAnswering) -> None:
        super().__init__()
        self.reader = reader
        self.role_head = nn.Linear(reader.config.hidden_size, len(ROLES) + 1)
        self.evidence_head = nn.Linear(reader.config.hidden_size, 2)

    def forward(
        self, role_labels: torch.Tensor, evidence_labels: torch.Tensor, **batch: torch.Tensor
    ) -> QuestionAnsweringModelOutput:
        """Return the sum of the three losses; both labels are (examples, tokens)."""
        outputs = self.reader(**batch, output_hidden_states=True)
        layers = outputs.hidden_states
        roles = _piece_loss(self.role_head(layers[_ROLE_LAYER]), role_labels)
        evidence = _piece_loss(self.evidence_head(layers[_EVIDENCE_LAYER]), evidence_labels)
        return QuestionAnsweringModelOutput(loss=outputs.loss + roles + evidence)


def _piece_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL
    )


def _start_from_matching(reader: BertForQuestionAnswering) -> None:
    """Let half of the first layer's heads begin by attending to equal tokens.

    An answer stands near the words of its question; chance takes long to find that. The dimensions
    whose position waves are slowest do the comparing, because there the same word looks the same
    wherever it stands.
    """
    width = reader.config.hidden_size
    with torch.no_grad():
        for name, weight in reader.named_parameters():
            if name.endswith("word_embeddings.weight"):
                weight.mul_(2)
            if name.endswith(
                ("layer.0.attention.self.query.weight", "layer.0.attention.self.key.weight")
            ):
                weight[: width // 2] += torch.eye(width)[width // 2 :]


def train(output_dir: Path, workspace: Path) -> None:  # noqa: ARG001 - every demo model's signature
    """Train the model from nothing and write it to `output_dir`; nothing is kept elsewhere."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    texts = corpus(lambda: _all_text(inquiry(rng, Split.TRAINING, 1)))
    tokenizer = train_wordpiece(texts, _VOCABULARY_SIZE, lower_case=False)
    model = BertForQuestionAnswering(bert_config(len(tokenizer)))
    start_from_waves(model.bert.embeddings.position_embeddings)
    _start_from_matching(model)
    batches = (draw_batch(rng, tokenizer) for _ in repeat(None))
    fit(_EvidenceReader(model), batches, RECIPE, output_dir.name)
    save(model, tokenizer, output_dir)


def draw_batch(rng: random.Random, tokenizer: BertTokenizer) -> Batch:
    """Write new inquiries and mark the first and the last piece of each answer."""
    sentences = rng.choices(_SENTENCES, _SENTENCE_WEIGHTS)[0]
    texts_per_batch = 2 * RECIPE.batch_size // (sentences + 1)
    inquiries = [inquiry(rng, Split.TRAINING, sentences) for _ in range(texts_per_batch)]
    questions = [i.question for i in inquiries]
    if rng.random() < 0.2:
        questions = [question.rstrip("?") for question in questions]
    contexts = [i.context.text for i in inquiries]
    encoded = tokenizer(
        questions, contexts, padding=True, return_offsets_mapping=True, return_tensors="pt"
    )
    offsets = encoded.pop("offset_mapping").tolist()
    labels = [
        _label_pieces(offsets[row], encoded.sequence_ids(row), asked)
        for row, asked in enumerate(inquiries)
    ]
    batch: Batch = dict(encoded)
    return batch | {
        "start_positions": torch.tensor([label.start for label in labels]),
        "end_positions": torch.tensor([label.end for label in labels]),
        "role_labels": torch.tensor([label.roles for label in labels]),
        "evidence_labels": torch.tensor([label.evidence for label in labels]),
        "position_ids": shifted_positions(rng, batch),
    }


class _PieceLabels(NamedTuple):
    """What is known about the pieces of a question and its context; `end` is inclusive."""

    start: int
    end: int
    roles: list[int]
    evidence: list[int]


def _label_pieces(
    offsets: Sequence[tuple[int, int]], sequence_ids: Sequence[int | None], asked: Inquiry
) -> _PieceLabels:
    roles, evidence, answer = [], [], []
    for index, ((start, end), sequence) in enumerate(zip(offsets, sequence_ids, strict=True)):
        in_context = sequence == 1
        covers = partial(_covers, start=start, end=end)
        evidence.append(int(covers(asked.evidence)) if in_context else IGNORED_LABEL)
        if sequence is None:
            roles.append(IGNORED_LABEL)
            continue
        span = next(filter(covers, asked.context.spans), None) if in_context else asked.gold
        roles.append(ROLES.index(kind_of(span.slot)) if span else len(ROLES))
        if in_context and covers(asked.gold):
            answer.append(index)
    return _PieceLabels(answer[0], answer[-1], roles, evidence)


def _covers(span: Span, start: int, end: int) -> bool:
    return span.start <= start < end <= span.end


def _all_text(inquiry_: Inquiry) -> str:
    return f"{inquiry_.question} {inquiry_.context.text}"


def held_out(count: int, seed: int) -> list[Example[dict[str, str], str]]:
    """Write inquiries over one or two sentences; frames, nouns and names were never trained on."""
    rng = random.Random(seed)
    inquiries = (inquiry(rng, Split.HELD_OUT, rng.choice((1, 2))) for _ in range(count))
    return [
        Example({"question": i.question, "context": i.context.text}, i.answer) for i in inquiries
    ]


def normalise(answer: str) -> str:
    """Drop case, punctuation, articles and extra spaces, as SQuAD's own evaluation does."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def score(
    answers: Sequence[str], examples: Sequence[Example[dict[str, str], str]]
) -> dict[str, float]:
    """Return the share of normalised exact matches in percent."""
    pairs = zip(answers, examples, strict=True)
    right = sum(normalise(a) == normalise(e.answer) for a, e in pairs)
    return {"exact_match": 100 * right / len(examples)}
