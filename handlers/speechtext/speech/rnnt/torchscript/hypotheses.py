"""What decoding knows of a recording between two of its pieces."""

from typing import NamedTuple

from torch import Tensor


class Hypotheses(NamedTuple):
    """What a recording may have said so far: hypotheses, the best one first.

    Of each one `tokens`, the `frames` at which they were emitted, their `probabilities` and the log
    probability of the whole, its score. The caller may take off and keep the tokens that all have
    in common at the same frames, and counts them in `kept`. `frame` is the next one to decode.
    `predictions` have shape (hypotheses, dimension), `states` (layers, 2, hypotheses, hidden).
    """

    tokens: list[list[int]]
    frames: list[list[int]]
    probabilities: list[list[float]]
    scores: list[float]
    kept: int
    frame: int
    predictions: Tensor
    states: Tensor
