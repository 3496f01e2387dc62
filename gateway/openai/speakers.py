"""Who speaks: what a request asks of the engine, and the shapes that tell it."""

import json
import string
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.engine import Description, ImpossibleRequestError
from gateway.openai.recognitions import Recognition, Word, cut_segments, usage_of
from gateway.openai.transcription_request import TranscriptionRequest

# How the engine calls those whom a request does not name.
NUMBERED = "Speaker "


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
    return fields | ({"known_speakers": json.dumps(known)} if known else {})


def write_diarized(found: Recognition) -> dict[str, Any]:
    """Return a transcript in the shape of `diarized_json`."""
    duration_s = found.duration_s or 0.0
    return {
        "task": "transcribe",
        "duration": duration_s,
        "text": found.text,
        "segments": list(describe_turns(found.words or [])),
        "usage": usage_of(duration_s),
    }


def describe_turns(words: Sequence[Word]) -> Iterator[dict[str, Any]]:
    """Yield the segments of speakers, each of one of them."""
    for number, segment in enumerate(cut_segments(words)):
        yield {
            "id": f"seg_{number}",
            "type": "transcript.text.segment",
            "start": segment[0].start,
            "end": segment[-1].end,
            "speaker": letter(segment[0].speaker or ""),
            "text": " ".join(each.word for each in segment),
        }


def letter(speaker: str) -> str:
    """Return OpenAI's name for a speaker: A for the engine's first, or the name that is known."""
    number = speaker.removeprefix(NUMBERED)
    if number == speaker or not number.isdecimal():
        return speaker
    letters, place = "", int(number)
    while place:
        place, rest = divmod(place - 1, len(string.ascii_uppercase))
        letters = string.ascii_uppercase[rest] + letters
    return letters
