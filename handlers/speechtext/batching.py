"""Which rows and waveforms a model runs together, so that little is spent on padding."""

from collections.abc import Sequence

import numpy as np
import torch

# A processor computes one waveform at a time fastest; a GPU is filled by about this much audio.
GPU_BATCH_SAMPLES = 640 * 16_000


def plan_groups(lengths: Sequence[int], most_tokens: int, call_tokens: int) -> list[list[int]]:
    """Return which rows go through the model together, so that little is spent on padding.

    Each group, padded to its longest row, has at most `most_tokens`, or is a single row; a call
    costs as much as `call_tokens`. Of all groups of rows of neighbouring lengths these are the
    cheapest, found by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    # What the rows before each one cost, and how many rows there are before it.
    costs, before = np.zeros(len(order) + 1, np.int64), np.arange(len(order))
    starts = [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        first = max(0, end - max(1, most_tokens // max(1, longest)))
        candidates = costs[first:end] + (end - before[first:end]) * longest
        best = int(candidates.argmin())
        costs[end] = candidates[best] + call_tokens
        starts.append(first + best)
    groups, end = [], len(order)
    while end:
        groups.append(order[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def plan_batches(
    samples: Sequence[int], device: torch.device, pads: bool = True
) -> list[list[int]]:
    """Return which of the waveforms, by index, to run together: those of like length, on a GPU.

    Those of one length where the model `pads` none.
    """
    if device.type == "cpu":
        return [[index] for index in range(len(samples))]
    batches: list[list[int]] = []
    for index in sorted(range(len(samples)), key=lambda index: -samples[index]):
        # The first of a batch is its longest.
        longest = samples[batches[-1][0]] if batches else 0
        fits = batches and (len(batches[-1]) + 1) * longest <= GPU_BATCH_SAMPLES
        if fits and (pads or samples[index] == longest):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
