"""The bookkeeping of greedy decoding."""

import math

from torch import Tensor

from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses


class GreedyRow:
    """A row of a batch in greedy decoding, which moves at its own pace."""

    def __init__(self, before: Hypotheses, frames: int) -> None:
        self.tokens = before.tokens[0].copy()
        self.frames = before.frames[0].copy()
        self.probabilities = before.probabilities[0].copy()
        self.score = before.scores[0]
        self.kept = before.kept
        self.first = before.frame
        self.at = 0
        self.end = frames
        self.tokens_here = 0

    def take(self, labels: list[int], values: list[float], blank: int, most_here: int) -> int:
        """Take the labels of the next frames up to the first token; return it, else the blank."""
        for label, value in zip(labels, values):  # noqa: B905, TorchScript's zip is not strict
            if self.at == self.end:
                return blank
            self.score += value
            if label != blank:
                self.emit(label, value, most_here)
                return label
            self.move()
        return blank

    def emit(self, token: int, value: float, most_here: int) -> None:
        """Add a token; move on where the frame has as many as it may."""
        self.tokens.append(token)
        self.frames.append(self.first + self.at)
        self.probabilities.append(math.exp(value))
        self.tokens_here += 1
        if self.tokens_here == most_here:
            self.move()

    def move(self) -> None:
        """Go to the next frame."""
        self.at += 1
        self.tokens_here = 0

    def finish(self, prediction: Tensor, state: Tensor) -> Hypotheses:
        """Return the row's hypothesis, with what the prediction network knows of it."""
        return Hypotheses(
            [self.tokens],
            [self.frames],
            [self.probabilities],
            [self.score],
            self.kept,
            self.first + self.end,
            prediction,
            state,
        )


def unfinished(rows: list[GreedyRow]) -> list[int]:
    """Return which of the rows have frames left."""
    left: list[int] = []
    for index, row in enumerate(rows):
        if row.at < row.end:
            left.append(index)
    return left
