"""Explanations of text requests: what may be asked for, what is explained, and how it is told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from speechtext.settings import STRICT
from speechtext.text.tokens import Row


@settings_dataclass(frozen=True, config=STRICT)
class ExplanationParameters:
    """What a request to /explanations may ask for, beside its task's own parameters."""

    method: Literal["layer_integrated_gradients", "layer_gradient_x_activation", "occlusion"] = (
        "layer_integrated_gradients"
    )
    n_steps: Annotated[int, KeyOptions(ge=1)] = 50
    tolerance: Annotated[float, KeyOptions(gt=0, lt=1)] | None = None
    granularity: Literal["token", "word"] = "token"
    metrics: bool = False


EXPLANATION_KEYS = frozenset(each.name for each in fields_of(ExplanationParameters))


@dataclass(frozen=True)
class Target:
    """One number to explain: that of the model's output `head`, flattened, at `place`, for a row.

    `name` is the label or the token that it speaks for and `probability` what the model gives it;
    `about` are further fields of the answer. Tokens that are not `explained` stay as they are, and
    an answer tells the first `shown` tokens of the row, by default all.
    """

    row: Row
    head: int
    place: int
    name: str
    explained: Sequence[bool]
    probability: float | None = None
    shown: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


class Explained(NamedTuple):
    """A target, what each token of its row adds to it, and what that leaves unexplained."""

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


class Piece(NamedTuple):
    """A token, or a word of a text: its characters there, and which tokens of the row it is.

    `text` is the number of the text, of a pair; special tokens are of none.
    """

    word: str
    text: int | None
    start: int
    end: int
    places: list[int]


def token_pieces(row: Row, names: Sequence[str]) -> list[Piece]:
    """Return each token of a row, under its own name."""
    offsets, sequences = row.pick(row.tokens.offsets), row.pick(row.tokens.sequences)
    return [
        Piece(name, text, span[0], span[1], [place])
        for place, (name, text, span) in enumerate(zip(names, sequences, offsets, strict=True))
    ]


def word_pieces(row: Row, names: Sequence[str], texts: Sequence[str]) -> list[Piece]:
    """Return the words of a row's texts, without special tokens; of tokens alone where unknown."""
    words = row.pick(row.tokens.words)
    merged: list[Piece] = []
    last: tuple[int | None, int | None] | None = None
    for place, piece in enumerate(token_pieces(row, names)):
        key = (piece.text, words[place])
        if piece.text is None:
            last = None
        elif merged and key == last and words[place] is not None:
            first = merged[-1]
            word = texts[piece.text][first.start : piece.end]
            merged[-1] = Piece(word, piece.text, first.start, piece.end, [*first.places, place])
        else:
            word = texts[piece.text][piece.start : piece.end] if piece.end else piece.word
            merged.append(piece._replace(word=word))
            last = key
    return merged


def sum_pieces(importances: Sequence[float], pieces: Sequence[Piece]) -> list[float]:
    """Return the importance of each piece, the sum of its tokens'."""
    return [sum(importances[place] for place in piece.places) for piece in pieces]


def describe_pieces(pieces: Sequence[Piece], granularity: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an answer that tell its words, and where they are in the text."""
    yield "words", [piece.word for piece in pieces]
    if granularity == "word":
        yield "offsets", [[piece.start, piece.end] for piece in pieces]
        if any(piece.text for piece in pieces):
            yield "texts", [piece.text for piece in pieces]
