"""The text tasks: one class each, in the one table that names them."""

from speechtext.text.base import TextTask
from speechtext.text.generation import TextGeneration
from speechtext.text.question_answering import QuestionAnswering
from speechtext.text.sequence_classification import SequenceClassification
from speechtext.text.token_classification import TokenClassification

TASKS: dict[str, type[TextTask]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "text_generation": TextGeneration,
}


def find_task(mode: str) -> type[TextTask]:
    """Return the class of a mode; raises `ValueError` where there is none."""
    if mode not in TASKS:
        raise ValueError(f"handler.mode: expected one of {', '.join(TASKS)}, got {mode!r}.")
    return TASKS[mode]
