"""Labels for a text, or for a pair of texts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from transformers import AutoModelForSequenceClassification

from speechtext.labels import (
    MULTI_LABEL,
    REGRESSION,
    choose_function,
    find_label,
    rank_labels,
    to_scores,
)
from speechtext.ranges import PositiveCount
from speechtext.settings import STRICT
from speechtext.text.base import own_tokens
from speechtext.text.explanation.targets import Target
from speechtext.text.payloads import (
    AnswerForm,
    Content,
    Example,
    optional_text_of,
    text_of,
    unknown_target,
)
from speechtext.text.understanding import UnderstandingTask
from speechtext.text.windows import Scored

# A label among several holds from this probability on.
LEAST_PROBABILITY = 0.5


@dataclass(frozen=True, config=STRICT)
class ClassificationParameters:
    """What a request may ask for; `top_k` null means all labels."""

    top_k: PositiveCount | None = 1
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class SequenceClassification(UnderstandingTask):
    """The label of a text; several where each may hold, a number of a regression or a single label.

    A pair of texts comes in the fields `text` and `text_pair`.
    """

    auto_model = AutoModelForSequenceClassification
    parameters = ClassificationParameters
    has_labels = True

    def read_texts(self, content: Content) -> tuple[str, str | None]:
        """Return the text, and the other one of a pair."""
        return text_of(content), optional_text_of(content, "text_pair")

    def decode(self, example: Example, scored: Sequence[Scored]) -> Any:
        """Return the plain label, or what the pipeline "text-classification" gives."""
        logits = scored[0].heads[0]
        if example.form is AnswerForm.PLAIN:
            return self._plain(logits)
        scores = self._score(logits, example.parameters.function_to_apply)
        found = rank_labels(scores, self.model.labels, example.parameters.top_k)
        return [found] if example.form is AnswerForm.HUB_CLIENT else found

    def _plain(self, logits: torch.Tensor) -> str | float | list[str]:
        problem, labels = self.model.config.problem_type, self.model.labels
        scores = self._score(logits)
        if problem == MULTI_LABEL:
            holds = (scores >= LEAST_PROBABILITY).nonzero()[:, 0]
            return [labels[index] for index in holds.tolist()]
        if problem == REGRESSION:
            return scores.tolist() if len(scores) > 1 else float(scores)
        return labels[int(scores.argmax())]

    def _score(self, logits: torch.Tensor, function: str | None = None) -> torch.Tensor:
        chosen = choose_function(self.model.config.problem_type, single=len(logits) == 1)
        return to_scores(logits, function or chosen)

    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return the label asked for, by index or name, else the predicted one."""
        window, (logits, *_) = scored[0]
        labels, asked = self.model.labels, example.target
        index = predicted = int(logits.argmax())
        if asked is not None:
            index = find_label(labels, asked)
        if index not in range(len(logits)):
            raise unknown_target(f"one of {dict(labels)}, by index or name")
        regression = self.model.config.problem_type == REGRESSION
        probability = None if regression else float(self._score(logits)[index])
        about = {"prediction": labels[predicted]} if asked is not None else {}
        return [
            Target(window, 0, index, labels[index], own_tokens(window), probability, about=about)
        ]
