"""The explanation of an answer: words, targets, and what each word adds to each target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from speechtext.text.explanation.targets import (
    Explained,
    ExplanationParameters,
    WordSpan,
    describe_spans,
    sum_spans,
)


@dataclass(frozen=True)
class View:
    """What there is to look at: texts, their words, and what each adds to each target.

    `as_matrix` says that the targets follow one another, as the tokens of a continuation do.
    """

    texts: Sequence[str]
    spans: Sequence[WordSpan]
    explained: Sequence[Explained]
    method: str
    as_matrix: bool


@dataclass(frozen=True)
class Explanation:
    """Which words an answer depends on, for each of its targets.

    `tokens` and `words` are those of the texts, `explained` has an importance for each token;
    `describe` is how the task tells of its targets. `dropped_tokens` of the text were too many for
    the model.
    """

    texts: Sequence[str]
    tokens: Sequence[WordSpan]
    words: Sequence[WordSpan]
    explained: Sequence[Explained]
    parameters: ExplanationParameters
    as_matrix: bool
    describe: Callable[[Sequence[Explained]], dict[str, Any]]
    dropped_tokens: int = 0

    @property
    def n_steps(self) -> int:
        """Return the steps of all integrals together."""
        return sum(each.n_steps for each in self.explained)

    @property
    def largest_delta(self) -> float:
        """Return the largest convergence delta, whatever its sign."""
        return max((abs(each.delta) for each in self.explained), default=0.0)

    def content(self) -> dict[str, Any]:
        """Return the explanation in the granularity asked for, ready to be written as JSON."""
        granularity = self.parameters.granularity
        spans = self.words if granularity == "word" else self.tokens
        told = self.describe(self._sum(spans))
        return {
            **dict(describe_spans(spans, granularity)),
            **told,
            "method": self.parameters.method,
        }

    def view(self) -> View:
        """Return what a picture shows, which is always of words."""
        method = self.parameters.method
        return View(self.texts, self.words, self._sum(self.words), method, self.as_matrix)

    def _sum(self, spans: Sequence[WordSpan]) -> list[Explained]:
        return [
            each._replace(importances=sum_spans(each.importances, spans)) for each in self.explained
        ]
