"""The span of a context that answers a question, from the scores of its tokens.

Start and end are scored jointly, as in Devlin et al. 2019, "BERT", section 4.2, and as by the
pipeline "question-answering" of transformers 4.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad


class Span(NamedTuple):
    """The first and the last token of an answer in its row, and its probability there."""

    score: float
    first: int
    last: int


class ContextScores(NamedTuple):
    """The probability of each token of a row to begin and to end the answer, shape (tokens,).

    `none` is the probability that the row has no answer: of its `classifier` token, the first of
    that name, and 0 in a row without one.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    none: float
    classifier: int | None


def score_context(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    allowed: torch.Tensor,
    classifiers: torch.Tensor,
) -> ContextScores:
    """Return probabilities among the `allowed` tokens and the `classifiers`.

    All have the shape (tokens,).
    """
    starts, ends = (
        logits.double().masked_fill(~(allowed | classifiers), -torch.inf).softmax(dim=0)
        for logits in (start_logits, end_logits)
    )
    classifier = next(iter(classifiers.nonzero()[:, 0].tolist()), None)
    none = 0.0 if classifier is None else float(starts[classifier] * ends[classifier])
    return ContextScores(starts * allowed, ends * allowed, none, classifier)


def find_spans(scores: ContextScores, most_tokens: int, count: int) -> list[Span]:
    """Return up to `count` spans of at most `most_tokens`, the most probable first."""
    longest = min(most_tokens, len(scores.ends))
    ends = pad(scores.ends, (0, longest - 1)).unfold(0, longest, 1)
    joint = (scores.starts[:, None] * ends).flatten()
    best = joint.topk(min(count, len(joint)))
    return [
        Span(score, index // longest, index // longest + index % longest)
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if score > 0
    ]


def whole_words(words: Sequence[int | None], span: Span) -> tuple[int, int]:
    """Return the first and last token of the words that a span touches.

    `words` number the word of each token. The answer "Siber" for "Siberia" helps nobody.
    """
    _, first, last = span
    while first > 0 and words[first] is not None and words[first - 1] == words[first]:
        first -= 1
    while last + 1 < len(words) and words[last] is not None and words[last + 1] == words[last]:
        last += 1
    return first, last


def rank_answers(
    found: Iterable[tuple[float, int, int]], context: str, none: float | None, count: int
) -> list[dict[str, Any]]:
    """Return the best answers, each a score and the characters of a context, end exclusive.

    Spans that read the same, whatever their case, are one answer, and their scores add up. Where
    `none` is a score, having no answer is one of them, as an empty text.
    """
    answers: dict[str, dict[str, Any]] = {}
    for score, start, end in found:
        text = context[start:end]
        first = {"score": 0.0, "start": start, "end": end, "answer": text}
        answers.setdefault(text.lower(), first)["score"] += score
    ranked = [*answers.values()]
    if none is not None or not ranked:
        ranked.append({"score": none or 0.0, "start": 0, "end": 0, "answer": ""})
    return sorted(ranked, key=lambda each: -each["score"])[:count]
