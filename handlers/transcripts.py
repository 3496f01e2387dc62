"""A transcript with its words' times, and the forms in which a client can have it."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from device_io import RequestError, as_text, preferred_media_type

# Subtitles that people can follow: two lines of 42 letters, at most 7 s, cut where speech pauses.
LINE_LETTERS = 42
CUE_LETTERS = 2 * LINE_LETTERS
CUE_S = 7.0
PAUSE_S = 0.8


class Token(NamedTuple):
    """A label of an emission: its frames, the end exclusive, and its mean probability there."""

    label: int
    start: int
    stop: int
    confidence: float


class Word(NamedTuple):
    """A word, its times within the recording, and the mean probability of its labels."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of `duration_s`."""

    text: str
    duration_s: float
    words: Sequence[Word]


def time_words(
    words: Sequence[Sequence[Token]], texts: Sequence[str], frame_s: float
) -> list[Word]:
    """Return words with their times, from the tokens and the text of each."""
    return [
        Word(
            text,
            tokens[0].start * frame_s,
            tokens[-1].stop * frame_s,
            sum(token.confidence for token in tokens) / len(tokens),
        )
        for tokens, text in zip(words, texts, strict=True)
    ]


def write_plain(transcript: Transcript) -> str:
    """Return the text alone."""
    return transcript.text


def write_json(transcript: Transcript) -> dict[str, Any]:
    """Return the text, the duration and the words, times in seconds."""
    words = [describe_word(word) for word in transcript.words]
    return {"text": transcript.text, "duration": round(transcript.duration_s, 3), "words": words}


def describe_word(word: Word) -> dict[str, Any]:
    """Return a word's text, times in seconds and confidence."""
    return {
        "word": word.text,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


def write_vtt(transcript: Transcript) -> str:
    """Return subtitles as WebVTT: https://www.w3.org/TR/webvtt1/."""
    return "\n".join(["WEBVTT\n", *_write_cues(transcript.words, ".")])


def write_srt(transcript: Transcript) -> str:
    """Return subtitles as SubRip: numbered cues, a comma before the milliseconds."""
    cues = _write_cues(transcript.words, ",")
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _write_cues(words: Sequence[Word], decimal_mark: str) -> Iterator[str]:
    for cue in cut_cues(words):
        start, end = (_clock(time_s, decimal_mark) for time_s in (cue[0].start_s, cue[-1].end_s))
        lines = textwrap.fill(" ".join(word.text for word in cue), LINE_LETTERS)
        # An arrow would end a WebVTT cue's text.
        yield f"{start} --> {end}\n{lines.replace('-->', '->')}\n"


def cut_cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each subtitle, cut at pauses and where it gets too long to read."""
    cue: list[Word] = []
    for word in words:
        if cue and not _fits(cue, word):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _fits(cue: Sequence[Word], word: Word) -> bool:
    texts = [*(each.text for each in cue), word.text]
    return (
        len(textwrap.wrap(" ".join(texts), LINE_LETTERS)) <= CUE_LETTERS // LINE_LETTERS
        and word.end_s - cue[0].start_s <= CUE_S
        and word.start_s - cue[-1].end_s <= PAUSE_S
    )


def _clock(time_s: float, decimal_mark: str) -> str:
    milliseconds = round(time_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal_mark}{milliseconds:03}"


PLAIN = "text/plain"
# Segments as they end, a JSON line each; for models that can tell.
NDJSON = "application/x-ndjson"
WRITERS: dict[str, Callable[[Transcript], Any]] = {
    PLAIN: write_plain,
    "application/json": write_json,
    "text/vtt": write_vtt,
    "application/x-subrip": write_srt,
}
RESPONSE_FORMATS = {
    "text": PLAIN,
    "json": "application/json",
    "vtt": "text/vtt",
    "srt": "application/x-subrip",
    "ndjson": NDJSON,
    "png": "image/png",
}


def choose_media_type(
    accept: str | None, response_format: Any, media_types: Sequence[str] = tuple(WRITERS)
) -> str:
    """Return the media type of the answer: the field `response_format`, else the header `Accept`.

    The first of `media_types` where neither asks for one of them. Raises `RequestError` 422 for
    another `response_format`.
    """
    if response_format is None:
        return preferred_media_type(accept or "", media_types)
    name = as_text(response_format) if isinstance(response_format, str | bytes | bytearray) else ""
    names = [each for each, media_type in RESPONSE_FORMATS.items() if media_type in media_types]
    if name not in names:
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "UnknownFormat",
            f"Expected response_format to be one of {', '.join(names)}.",
        )
    return RESPONSE_FORMATS[name]


def response_format_of(row: Mapping[str, Any]) -> Any:
    """Return a request's field `response_format`, of its form or of its JSON, None without one."""
    body = row.get("body")
    fields = body if isinstance(body, Mapping) else row
    return fields.get("response_format")
