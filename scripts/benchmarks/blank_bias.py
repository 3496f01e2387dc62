"""The blank's bias of a model of random weights, set so that it emits as speech does."""

from collections.abc import Callable, Sequence

import torch

from benchmarks.full_size_models import BUNDLE_PIECES

# What random weights are made to emit, and where the bias for it is looked for, in how many steps
# and then how near the best of these: what they emit jumps from bias to bias.
FRAMES_PER_TOKEN = 4
BIASES = (0.5, 2.5)
BIAS_STEPS = 8
NEAR_BIASES = (-0.03, -0.02, -0.01, -0.003, 0.003, 0.01, 0.02, 0.03)


class BlankBias:
    """The blank's bias of a model, set so that it emits about a token for each four frames.

    Random weights emit what they please, and in bfloat16 something else than in float32: equal work
    needs a bias for each side and each length.
    """

    def __init__(self, bias: torch.Tensor, count: Callable[[torch.Tensor], int]) -> None:
        self._bias = bias
        self._count = count

    @torch.inference_mode()
    def fit(self, encodings: Sequence[torch.Tensor]) -> float:
        """Set the bias; return how many frames there are then for each token."""
        frames = sum(map(len, encodings))
        wanted = frames / FRAMES_PER_TOKEN
        low, high = BIASES
        found: dict[float, int] = {}
        for _ in range(BIAS_STEPS):
            middle = (low + high) / 2
            found[middle] = self._try(middle, encodings)
            low, high = (middle, high) if found[middle] > wanted else (low, middle)
        found |= {middle + off: self._try(middle + off, encodings) for off in NEAR_BIASES}
        best = min(found, key=lambda bias: abs(found[bias] - wanted))
        self._bias.data[BUNDLE_PIECES] = best
        return frames / max(1, found[best])

    def _try(self, bias: float, encodings: Sequence[torch.Tensor]) -> int:
        self._bias.data[BUNDLE_PIECES] = bias
        return sum(map(self._count, encodings))
