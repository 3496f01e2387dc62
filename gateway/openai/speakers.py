"""Who speaks: what a request asks of the engine, and the shapes that tell it."""

import json
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

from gateway.engine import Description, EngineError, ImpossibleRequestError
from gateway.openai.recognitions import Recognition, Word, cut_segments, usage_of
from gateway.openai.transcription_request import TranscriptionRequest

# How the engine calls those whom a request does not name.
NUMBERED = "Speaker "
# How it calls the names and references together.
KNOWN_FIELD = "known_speakers"


def find_speakers(request: TranscriptionRequest, about: Description) -> dict[str, str]:
    """Return the engine's fields for who speaks, none where a request does not ask.

    Raises `ImpossibleRequestError` where the model does not tell speakers apart.
    """
    if not request.tells_speakers:
        return {}
    if not about.speakers:
        raise ImpossibleRequestError(
            "SpeakersUnsupported",
            f"Expected {request.speakers_field} to ask for no speakers: this model does not tell "
            "them apart. Serve one with a speaker_model.",
            field=request.speakers_field,
        )
    known = dict(zip(request.known_speaker_names, request.known_speaker_references, strict=True))
    fields = {"diarize": "true"}
    if request.num_speakers:
        fields["num_speakers"] = str(request.num_speakers)
    return fields | ({KNOWN_FIELD: json.dumps(known)} if known else {})


@contextmanager
def name_known_field() -> Iterator[None]:
    """Let an error of the engine about a known speaker name the field of OpenAI's that it is of."""
    try:
        yield
    except EngineError as error:
        if KNOWN_FIELD not in error.message:
            raise
        field = f"known_speaker_{'names' if 'names of' in error.message else 'references'}"
        message = error.message.replace(KNOWN_FIELD, field)
        raise type(error)(error.kind, message, error.retry_after_s, field) from error


def write_diarized(found: Recognition, known: Sequence[str]) -> dict[str, Any]:
    """Return a transcript in the shape of `diarized_json`; `known` are names that were given."""
    duration_s = found.duration_s or 0.0
    return {
        "task": "transcribe",
        "duration": duration_s,
        "text": found.text,
        "segments": list(describe_turns(found.words or [], known)),
        "usage": usage_of(duration_s),
    }


def describe_turns(words: Sequence[Word], known: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the segments of speakers, each of one of them."""
    for number, segment in enumerate(cut_segments(words)):
        yield {
            "id": f"seg_{number}",
            "type": "transcript.text.segment",
            "start": segment[0].start,
            "end": segment[-1].end,
            "speaker": letter(segment[0].speaker or "", known),
            "text": " ".join(each.word for each in segment),
        }


def letter(speaker: str, known: Sequence[str] = ()) -> str:
    """Return OpenAI's name for a speaker: A for the engine's first, or the name that is `known`.

    Nobody else gets a letter that is somebody's name.
    """
    number = speaker.removeprefix(NUMBERED)
    if speaker in known or number == speaker or not number.isdecimal() or int(number) < 1:
        return speaker
    free = (each for each in map(_write_letters, count(1)) if each not in known)
    return next(islice(free, int(number) - 1, None))


def _write_letters(place: int) -> str:
    letters = ""
    while place:
        place, rest = divmod(place - 1, len(string.ascii_uppercase))
        letters = string.ascii_uppercase[rest] + letters
    return letters
