"""Who or what is active when: from probabilities of frames to segments."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from speechtext.speech.chunks import Chunk

# More are matched one by one, not in all orders.
MOST_ORDERED = 6


class Activity(NamedTuple):
    """A stretch of a recording in which a label holds, and its mean probability there."""

    start_s: float
    end_s: float
    label: str
    score: float


def keep_speakers(
    chunks: Sequence[Chunk], probabilities: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the probabilities of windows, each with its speakers in the order of the one before.

    They have shape (frames, speakers) for each. Who is silent in all that two windows share keeps
    no name.
    """
    ordered: list[torch.Tensor] = []
    for number, (chunk, each) in enumerate(zip(chunks, probabilities, strict=True)):
        if not number:
            ordered.append(each)
            continue
        before, last = chunks[number - 1], ordered[-1]
        shared = last[chunk.start - before.start :], each[: before.stop - chunk.start]
        ordered.append(each[:, match_speakers(*shared)])
    return ordered


def match_speakers(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Return the column of `after` that goes on with each column of `before`.

    Both are probabilities of the same frames, shape (frames, speakers), in windows that name their
    speakers in an order of their own. The order is that of the highest correlation: Fujita et al.
    2019, "End-to-End Neural Speaker Diarization with Permutation-free Objectives".
    """
    likeness = before.T.double() @ after.double()
    count = len(likeness)
    if count <= MOST_ORDERED:
        rows = range(count)
        best = max(
            itertools.permutations(rows), key=lambda order: float(likeness[rows, order].sum())
        )
        return list(best)
    order = [-1] * count
    for place in likeness.flatten().argsort(descending=True).tolist():
        row, column = divmod(place, count)
        if order[row] < 0 and column not in order:
            order[row] = column
    return order


def find_activities(
    probabilities: torch.Tensor,
    labels: Sequence[str],
    frame_s: float,
    threshold: float,
    min_duration_s: float,
    min_gap_s: float,
) -> list[Activity]:
    """Return where each label's probability, shape (frames, labels), is at least a threshold.

    Gaps shorter than `min_gap_s` are bridged, then segments shorter than `min_duration_s` dropped.
    In the order of their starts; those of several labels may overlap.
    """
    found = [
        Activity(start * frame_s, stop * frame_s, label, float(column[start:stop].mean()))
        for label, column in zip(labels, probabilities.T, strict=True)
        for start, stop in _bridge(_runs(column >= threshold), min_gap_s / frame_s)
        if (stop - start) * frame_s >= min_duration_s
    ]
    return sorted(found)


def _runs(active: torch.Tensor) -> Iterator[tuple[int, int]]:
    values, counts = torch.unique_consecutive(active, return_counts=True)
    stops = counts.cumsum(dim=0).tolist()
    for value, count, stop in zip(values.tolist(), counts.tolist(), stops, strict=True):
        if value:
            yield stop - count, stop


def _bridge(runs: Iterator[tuple[int, int]], least: float) -> Iterator[tuple[int, int]]:
    """Join runs between which are fewer frames than `least`."""
    start, stop = next(runs, (0, 0))
    for following in runs:
        if following[0] - stop < least:
            stop = following[1]
        else:
            yield start, stop
            start, stop = following
    if stop > start:
        yield start, stop


def write_json(activities: Sequence[Activity]) -> list[dict[str, Any]]:
    """Return segments as JSON: seconds, label and mean probability."""
    return [
        {
            "start": round(each.start_s, 3),
            "end": round(each.end_s, 3),
            "label": each.label,
            "score": each.score,
        }
        for each in activities
    ]


def write_rttm(activities: Sequence[Activity], name: str = "recording") -> str:
    """Return segments as RTTM, a line each: NIST 2009, "The 2009 (RT-09) Evaluation Plan"."""
    return "".join(
        f"SPEAKER {name} 1 {each.start_s:.3f} {each.end_s - each.start_s:.3f} <NA> <NA> "
        f"{each.label.replace(' ', '_')} <NA> <NA>\n"
        for each in activities
    )
