"""CTC: from emissions to label indices."""

import itertools
from collections.abc import Sequence

import torch

from speechtext.speech.transcripts import Token


def find_best_path(probabilities: torch.Tensor, blank: int) -> list[Token]:
    """Return the tokens of the best path, in order; `probabilities` have shape (frames, labels).

    Repeats are merged first, then blanks dropped, so that a blank keeps a double letter apart.
    Graves et al. 2006, "Connectionist Temporal Classification", section 3.2.
    """
    highest, path = probabilities.max(dim=-1)
    return merge_path(path, highest, blank)


def merge_path(path: torch.Tensor, probabilities: torch.Tensor, blank: int) -> list[Token]:
    """Return the tokens of a path of labels with their mean probabilities, both of shape (frames,).

    `torchaudio.functional.merge_tokens` does so in a loop.
    """
    labels, counts = torch.unique_consecutive(path, return_counts=True)
    stops = counts.cumsum(dim=0)
    sums = torch.nn.functional.pad(probabilities.double().cumsum(dim=0), (1, 0))
    means = (sums[stops] - sums[stops - counts]) / counts
    columns = (each.tolist() for each in (labels, stops - counts, stops, means))
    return [Token(*row) for row in zip(*columns, strict=True) if row[0] != blank]


def group_words(
    tokens: Sequence[Token], delimiter: int | None, starts: frozenset[int] = frozenset()
) -> list[list[Token]]:
    """Return the tokens of each word, which a `delimiter` ends, or one of the `starts` begins.

    A model that has neither has but one word.
    """
    if starts:
        numbers = itertools.accumulate(token.label in starts for token in tokens)
        pairs = zip(numbers, tokens, strict=True)
        grouped = itertools.groupby(pairs, lambda pair: pair[0])
        return [[token for _, token in word] for _, word in grouped]
    groups = itertools.groupby(tokens, lambda token: token.label == delimiter)
    return [list(word) for is_delimiter, word in groups if not is_delimiter]
