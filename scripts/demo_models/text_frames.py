"""Sentences from frames with slots, and the one rule that keeps words out of training.

A *frame* is a sentence with named slots, `"{person} works for {org}."`. `render` fills it
and remembers where every filler stands, so gold answers are character spans by construction.
Digits at the end of a slot's name only tell two slots of one kind apart: `{person2}`.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

HELD_OUT_SHARE = 8
"""One word in this many never occurs in training."""

_SLOT = re.compile(r"\{(\w+)\}")

PayloadT = TypeVar("PayloadT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class Example(Generic[PayloadT, AnswerT]):
    """What a client sends and the plain answer it should get."""

    payload: PayloadT
    answer: AnswerT


class Split(Enum):
    """The two halves of every world; no word list item and no frame belongs to both."""

    TRAINING = "training"
    HELD_OUT = "held out"

    def owns(self, word: str) -> bool:
        """Tell whether a word is this half's, by a checksum: new words never move old ones."""
        held_out = zlib.crc32(word.lower().encode()) % HELD_OUT_SHARE == 0
        return held_out == (self is Split.HELD_OUT)


def listed(text: str) -> tuple[str, ...]:
    """Read a comma-separated list, however it is broken into lines."""
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


class Lexicon:
    """A list of words or phrases cut in two by `Split.owns`."""

    def __init__(self, words: Iterable[str]) -> None:
        """Keep `words` in their order, each once."""
        unique = tuple(dict.fromkeys(words))
        self.members = {split: tuple(filter(split.owns, unique)) for split in Split}

    @classmethod
    def from_text(cls, text: str) -> "Lexicon":
        """Read a comma-separated list."""
        return cls(listed(text))

    def draw(self, rng: random.Random, split: Split) -> str:
        """Pick one word of this half."""
        return rng.choice(self.members[split])

    def __iter__(self) -> Iterator[str]:
        return iter(self.members[Split.TRAINING] + self.members[Split.HELD_OUT])

    def __add__(self, other: "Lexicon") -> "Lexicon":
        return Lexicon([*self, *other])


class FrameBook(NamedTuple):
    """The frames of one kind: `held_out` ones never occur in training."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """Return the frames of one half."""
        return self.training if split is Split.TRAINING else self.held_out


class Filler(NamedTuple):
    """What goes into a slot; the span covers `core` only (`on ` + `Monday`)."""

    core: str
    lead: str = ""


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text, and the slot that filled them."""

    start: int
    end: int
    slot: str


@dataclass(frozen=True)
class Passage:
    """A text and the spans of its fillers."""

    text: str
    spans: tuple[Span, ...] = ()

    def span(self, slot: str) -> Span:
        """Return the first span of a slot; `KeyError` if the frame has none."""
        for span in self.spans:
            if span.slot == slot:
                return span
        raise KeyError(slot)


def slots_of(frame: str) -> frozenset[str]:
    """Name the slots of a frame."""
    return frozenset(_SLOT.findall(frame))


def kind_of(slot: str) -> str:
    """Drop the digits that tell slots of one kind apart."""
    return slot.rstrip("0123456789")


def render(frame: str, fill: Callable[[str], Filler]) -> Passage:
    """Fill every slot of a frame and capitalise the first letter."""
    pieces: list[str] = []
    spans: list[Span] = []
    length = 0
    for index, piece in enumerate(_SLOT.split(frame)):
        is_slot = index % 2 == 1
        if pieces and pieces[-1].endswith("."):
            piece = piece.removeprefix(".")  # "He left Acme Inc." ends with one stop
        filler = fill(piece) if is_slot else Filler(piece)
        start = length + len(filler.lead)
        length = start + len(filler.core)
        pieces.append(filler.lead + filler.core)
        if is_slot:
            spans.append(Span(start, length, piece))
    text = "".join(pieces)
    return Passage(text[:1].upper() + text[1:], tuple(spans))


def join(passages: Iterable[Passage]) -> Passage:
    """Put passages after each other, one space between them, and move their spans along."""
    texts: list[str] = []
    spans: list[Span] = []
    offset = 0
    for passage in passages:
        texts.append(passage.text)
        spans.extend(Span(s.start + offset, s.end + offset, s.slot) for s in passage.spans)
        offset += len(passage.text) + 1
    return Passage(" ".join(texts), tuple(spans))


def with_article(noun_phrase: str) -> str:
    """Put "a" or "an" in front, by spelling: "an oven", but "a used oven"."""
    sounds_like_you = noun_phrase.startswith(("use", "uni", "eu"))
    vowel = noun_phrase[0].lower() in "aeiou" and not sounds_like_you
    return f"{'an' if vowel else 'a'} {noun_phrase}"
