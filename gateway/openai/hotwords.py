"""What a model is to listen for: the keywords of a request, and the words of its prompt."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway.engine import Description, ImpossibleRequestError

# What the engine takes: texts, and characters of each.
MOST_HOTWORDS = MOST_CHARACTERS = 100
# A prompt is free text, so what it says of spelling are its longer words; others are in any speech.
LEAST_LETTERS = 4
WORDS = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def find_hotwords(keywords: Sequence[str], prompt: str, about: Description) -> dict[str, str]:
    """Return the engine's field for what to listen for, none where a request names nothing.

    Raises `ImpossibleRequestError` where the model cannot listen for anything.
    """
    named = [each.strip() for each in keywords if each.strip()]
    if not named and not prompt.strip():
        return {}
    if not about.hotwords:
        field = "keywords" if named else "prompt"
        raise ImpossibleRequestError(
            "HotwordsUnsupported",
            f"Expected {field} to be absent: this model decodes greedily and cannot be told what "
            "to expect. Leave it out, or serve the model with decoder: beam (Wav2Vec2) or "
            "beam_width (Emformer).",
            field=field,
        )
    known = {each.lower() for each in named}
    words = {each.lower(): each for each in words_of(prompt) if each.lower() not in known}
    return {"hotwords": json.dumps([*named, *words.values()][:MOST_HOTWORDS])}


@contextmanager
def name_field(keywords: Sequence[str], prompt: str) -> Iterator[None]:
    """Let an error about how a hotword is spelled name the field that it came from."""
    try:
        yield
    except ImpossibleRequestError as error:
        if error.kind != "UnknownSpelling":
            raise
        field = "keywords" if keywords else "prompt"
        given = (keywords and "keywords", prompt and "prompt")
        names = " and ".join(str(name) for name in given if name)
        raise ImpossibleRequestError(
            error.kind,
            f"Expected {names} in the letters that the model's vocabulary has, got others.",
            field=field,
        ) from error


def words_of(prompt: str) -> list[str]:
    """Return the words of a prompt that may be names or terms, without numbers and short ones."""
    words = [each.replace("\u2019", "'") for each in WORDS.findall(prompt)]
    return [each for each in words if LEAST_LETTERS <= len(each) <= MOST_CHARACTERS]
