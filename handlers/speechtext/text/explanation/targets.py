"""Explanations of text requests: what may be asked for, what is explained, and how it is told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from speechtext.ranges import PositiveCount
from speechtext.settings import STRICT
from speechtext.text.tokens import Window


@settings_dataclass(frozen=True, config=STRICT)
class ExplanationParameters:
    """What a request for an explanation may ask for, beside its task's own parameters."""

    method: Literal["layer_integrated_gradients", "layer_gradient_x_activation", "occlusion"] = (
        "layer_integrated_gradients"
    )
    n_steps: PositiveCount = 50
    tolerance: Annotated[float, KeyOptions(gt=0, lt=1)] | None = None
    granularity: Literal["token", "word"] = "token"
    metrics: bool = False


EXPLANATION_KEYS = frozenset(each.name for each in fields_of(ExplanationParameters))


@dataclass(frozen=True)
class Target:
    """One number to explain, and what is told of it.

    The number is that of the model's output `head`, flattened, at `logit_index`, for a window.
    `name` is the label or the token that it speaks for and `probability` what the model gives it;
    `about` are further fields of the answer. Tokens that are not `explained` stay as they are, and
    an answer tells the first `shown` tokens of the window, by default all.
    """

    window: Window
    head: int
    logit_index: int
    name: str
    explained: Sequence[bool]
    probability: float | None = None
    shown: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


class Explained(NamedTuple):
    """A target, what each token of its window adds to it, and what that leaves unexplained."""

    target: Target
    importances: list[float]
    delta: float
    n_steps: int
    metrics: Mapping[str, float] = {}

    def facts(self) -> dict[str, Any]:
        """Return what the answer tells about the target beside its words."""
        known = {} if self.target.probability is None else {"probability": self.target.probability}
        return {
            "target": self.target.name,
            **known,
            **self.target.about,
            "n_steps": self.n_steps,
            **self.metrics,
        }


class WordSpan(NamedTuple):
    """A token, or a word of a text: its characters there, and which tokens of the window it is.

    `text` is the number of the text, of a pair; special tokens are of none.
    """

    word: str
    text: int | None
    start: int
    end: int
    positions: list[int]


def token_spans(window: Window, names: Sequence[str]) -> list[WordSpan]:
    """Return each token of a window, under its own name."""
    offsets, sequences = window.pick(window.tokens.offsets), window.pick(window.tokens.sequences)
    return [
        WordSpan(name, text, span[0], span[1], [position])
        for position, (name, text, span) in enumerate(zip(names, sequences, offsets, strict=True))
    ]


def word_spans(window: Window, names: Sequence[str], texts: Sequence[str]) -> list[WordSpan]:
    """Return the words of a window's texts, without special tokens; tokens where unknown."""
    words = window.pick(window.tokens.words)
    merged: list[WordSpan] = []
    last: tuple[int | None, int | None] | None = None
    for position, span in enumerate(token_spans(window, names)):
        key = (span.text, words[position])
        if span.text is None:
            last = None
        elif merged and key == last and words[position] is not None:
            first = merged[-1]
            word = texts[span.text][first.start : span.end]
            merged[-1] = WordSpan(
                word, span.text, first.start, span.end, [*first.positions, position]
            )
        else:
            word = texts[span.text][span.start : span.end] if span.end else span.word
            merged.append(span._replace(word=word))
            last = key
    return merged


def sum_spans(importances: Sequence[float], spans: Sequence[WordSpan]) -> list[float]:
    """Return the importance of each span, the sum of its tokens'."""
    return [sum(importances[position] for position in span.positions) for span in spans]


def describe_spans(spans: Sequence[WordSpan], granularity: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an answer that tell its words, and where they are in the text."""
    yield "words", [span.word for span in spans]
    if granularity == "word":
        yield "offsets", [[span.start, span.end] for span in spans]
        if any(span.text for span in spans):
            yield "texts", [span.text for span in spans]
