"""What else a stretch of a CTC emission may mean."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

BEAM_WIDTH = 16
ALTERNATIVES = 5
# What begins the names of pieces that begin a word.
WORD_START = "\u2581"


class Hypothesis(NamedTuple):
    """Labels, and the logarithm of the probability that the emission means them."""

    labels: tuple[int, ...]
    log_probability: float


def search_prefixes(
    probabilities: torch.Tensor, blank: int, beam_width: int = BEAM_WIDTH
) -> list[Hypothesis]:
    """Return the most probable label sequences of an emission, shape (frames, labels), best first.

    Each one's probability is the sum over its alignments. Hannun et al. 2014, "First-Pass Large
    Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", algorithm 1.
    """
    # For each prefix: the probability that it ends in a blank, and in its last label, both divided
    # by `scale`, which is given as a logarithm: after thousands of frames they would underflow.
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    scale = 0.0
    for frame in probabilities.tolist():
        likely = sorted(range(len(frame)), key=frame.__getitem__, reverse=True)[:beam_width]
        beam = _extend(beam, frame, {*likely} - {blank}, blank)
        best = sorted(beam, key=lambda prefix: sum(beam[prefix]), reverse=True)[:beam_width]
        most = sum(beam[best[0]])
        if most == 0:
            return []
        beam = {prefix: (beam[prefix][0] / most, beam[prefix][1] / most) for prefix in best}
        scale += math.log(most)
    return [
        Hypothesis(prefix, math.log(sum(ends)) + scale)
        for prefix, ends in beam.items()
        if sum(ends) > 0
    ]


def _extend(
    beam: dict[tuple[int, ...], tuple[float, float]],
    frame: Sequence[float],
    labels: set[int],
    blank: int,
) -> dict[tuple[int, ...], tuple[float, float]]:
    in_blank: dict[tuple[int, ...], float] = defaultdict(float)
    in_label: dict[tuple[int, ...], float] = defaultdict(float)
    for prefix, (blank_end, label_end) in beam.items():
        in_blank[prefix] += (blank_end + label_end) * frame[blank]
        for label in labels:
            repeats = bool(prefix) and label == prefix[-1]
            if repeats:
                in_label[prefix] += label_end * frame[label]
            # A label follows itself only across a blank.
            before = blank_end if repeats else blank_end + label_end
            in_label[(*prefix, label)] += before * frame[label]
    return {prefix: (in_blank[prefix], in_label[prefix]) for prefix in {*in_blank, *in_label}}


def find_alternatives(
    frames: torch.Tensor, labels: Sequence[str], blank: int, delimiter: int | None
) -> list[tuple[str, float]]:
    """Return the words that a word's frames, shape (frames, labels), may mean.

    The probabilities are shares of what was found.
    """
    # What underflowed to zero is improbable, and not impossible.
    frames = frames.double().clamp(min=torch.finfo(torch.float32).tiny)
    if delimiter is not None:
        frames[:, delimiter] = 0
    hypotheses = search_prefixes(frames, blank)
    weights = [
        math.exp(each.log_probability - hypotheses[0].log_probability) for each in hypotheses
    ]
    total = math.fsum(weights)
    return [
        (_join(labels[label] for label in each.labels), weight / total)
        for each, weight in zip(hypotheses[:ALTERNATIVES], weights, strict=False)
    ]


def _join(names: Iterable[str]) -> str:
    return "".join(names).replace(WORD_START, " ").strip()
