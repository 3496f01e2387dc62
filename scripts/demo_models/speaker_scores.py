"""How well speakers are told apart: of voices, and of who spoke when."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class EqualError(NamedTuple):
    """The threshold at which as many pairs are wrongly told apart as are wrongly taken for one."""

    rate: float
    threshold: float


def find_equal_error(voices: Tensor, names: Sequence[int]) -> EqualError:
    """Return the share of pairs judged wrongly where both kinds of error are alike.

    `voices` have shape (recordings, dimensions) and a length of 1; each pair is judged by its
    cosine.
    """
    alike, other = pair_scores(voices, names)
    thresholds = torch.cat([alike, other]).sort().values
    missed = torch.searchsorted(alike.sort().values, thresholds) / len(alike)
    false = 1 - torch.searchsorted(other.sort().values, thresholds) / len(other)
    place = (missed - false).abs().argmin()
    return EqualError(float((missed[place] + false[place]) / 2), float(thresholds[place]))


def pair_scores(voices: Tensor, names: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the cosines of pairs of one speaker, and those of pairs of two."""
    cosines = voices @ voices.T
    rows, columns = torch.triu_indices(len(names), len(names), offset=1)
    speakers = torch.tensor(names)
    same = speakers[rows] == speakers[columns]
    scores = cosines[rows, columns]
    return scores[same], scores[~same]


def diarization_error_rate(said: Sequence[Any], true: Sequence[Any]) -> float:
    """Return the share of speech that is missed, false or of another speaker, over all recordings.

    Each has shape (frames, speakers) and says who is active; speech of two at a time counts twice.
    Speakers are matched as they fit best, and there is no collar: NIST 2009, "The 2009 (RT-09)
    Rich Transcription Meeting Recognition Evaluation Plan".
    """
    errors = [_count_errors(one.astype(int), other.astype(int)) for one, other in
              zip(said, true, strict=True)]  # fmt: skip
    return sum(errors) / sum(int(each.sum()) for each in true)


def _count_errors(said: Any, true: Any) -> int:
    rows, columns = linear_sum_assignment(said.T @ true, maximize=True)
    right = (said[:, rows] & true[:, columns]).sum()
    return int(np.maximum(said.sum(axis=1), true.sum(axis=1)).sum() - right)
