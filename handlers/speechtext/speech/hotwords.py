"""Hotwords: words and phrases that are likely to be said, as a request or a YAML names them."""

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any

from pydantic import Field as KeyOptions
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from speechtext.errors import ImpossibleRequestError
from speechtext.settings import STRICT, describe_problems
from speechtext.speech.hotword_scores import HotwordScores

# Work and memory grow with both.
MOST_HOTWORDS = 100
MOST_CHARACTERS = 100
# Twice what the longest list takes where each character is written as an escape of JSON.
MOST_JSON_CHARACTERS = 131_072
# Natural logarithms: of a word of six letters, a boost of 1 makes e to the sixth as likely.
MOST_BOOST = 10.0
HotwordPhrase = Annotated[str, KeyOptions(min_length=1, max_length=MOST_CHARACTERS)]
HotwordPhrases = Annotated[list[HotwordPhrase], KeyOptions(max_length=MOST_HOTWORDS)]
HotwordBoost = Annotated[float, KeyOptions(ge=0, le=MOST_BOOST)]
# From a word to its symbols, None where the model has no symbol for a character of it.
Speller = Callable[[str], Sequence[Hashable] | None]


@dataclass(frozen=True, config=STRICT)
class HotwordParameters:
    """What a request says of hotwords; None leaves it to the model's YAML."""

    hotwords: HotwordPhrases | None = None
    hotword_boost: HotwordBoost | None = None

    def ask(self) -> bool:
        """Tell whether they ask for anything."""
        return bool(self.hotwords) or self.hotword_boost is not None


def read_hotwords(given: Any, boost: Any) -> HotwordParameters:
    """Return a request's parameters; text, as a form has it, is read as JSON.

    Raises `ImpossibleRequestError`, which names the parameter and the position in the list, not
    what is there.
    """
    given, boost = _parse("hotwords", given), _parse("hotword_boost", boost)
    try:
        return HotwordParameters(hotwords=given, hotword_boost=boost)
    except ValidationError as error:
        # One of what may be a hundred.
        said = describe_problems(error, str, _show)[0]
        raise ImpossibleRequestError(
            "InvalidParameter",
            f"Expected hotwords as a JSON list of at most {MOST_HOTWORDS} texts of 1 to "
            f"{MOST_CHARACTERS} characters, and hotword_boost from 0 to {MOST_BOOST:g}. {said}.",
        ) from None


def _parse(name: str, given: Any) -> Any:
    """Return what a text says as JSON, and all else as it is."""
    if not isinstance(given, str):
        return given
    if len(given) <= MOST_JSON_CHARACTERS:
        try:
            return json.loads(given)
        # A hostile depth of brackets ends the parser in a RecursionError.
        except (ValueError, RecursionError):
            pass
    example = '["kitchen lights", "garage"]' if name == "hotwords" else "1.5"
    raise ImpossibleRequestError(
        "InvalidParameter",
        f"Expected {name} as JSON, such as {example}, of at most {MOST_JSON_CHARACTERS} "
        f"characters, got {len(given)} characters of something else.",
    )


def _show(value: Any) -> str:
    """Return what may be told of a value: numbers, and of others the type."""
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < MOST_JSON_CHARACTERS):
        return str(value)
    return f"a {type(value).__name__}"


class Biasing:
    """How a model that searches takes hotwords: how words are spelled, and what its YAML says.

    `boundary` is the symbol between two words. Raises `ValueError` for hotwords of the YAML that
    the model cannot spell.
    """

    def __init__(
        self,
        spell: Speller,
        boundary: Hashable,
        hotwords: Sequence[str] | None,
        boost: float,
    ) -> None:
        self._spell = spell
        self._boundary = boundary
        self._boost = boost
        self._hotwords = hotwords or ()
        try:
            self.choose(HotwordParameters())
        except ImpossibleRequestError as error:
            raise ValueError(f"handler.hotwords: {error.message}") from error

    def choose(self, asked: HotwordParameters) -> HotwordScores | None:
        """Return the scores of the hotwords that a request asks for, else the YAML's.

        None where there are none. Raises `ImpossibleRequestError` for one that the model cannot
        spell.
        """
        phrases = self._hotwords if asked.hotwords is None else asked.hotwords
        if not phrases:
            return None
        boost = self._boost if asked.hotword_boost is None else asked.hotword_boost
        spelled = [self._spell_phrase(position, each) for position, each in enumerate(phrases)]
        return HotwordScores(spelled, self._boundary, boost)

    def probe(self) -> HotwordScores:
        """Return no hotwords, to measure what the search for some takes."""
        return HotwordScores([], self._boundary, self._boost)

    def _spell_phrase(self, position: int, phrase: str) -> list[list[Hashable]]:
        words = [self._spell_word(word) for word in phrase.split()]
        if not words or not all(words):
            raise ImpossibleRequestError(
                "UnknownSpelling",
                f"Expected hotwords that the model's vocabulary can spell; hotwords.{position} has "
                "no characters but spaces, or some that it lacks.",
            )
        return [list(word) for word in words if word]

    def _spell_word(self, word: str) -> Sequence[Hashable] | None:
        """Return a word's symbols, as it is written or in the case that the vocabulary has."""
        spellings = (self._spell(each) for each in (word, word.upper(), word.lower()))
        return next((each for each in spellings if each), None)


def hotwords_unsupported(expected: str) -> ImpossibleRequestError:
    """Return the error of hotwords for a model that does not search for them, 422."""
    return ImpossibleRequestError(
        "HotwordsUnsupported", f"Expected no hotwords and no hotword_boost: {expected}."
    )
