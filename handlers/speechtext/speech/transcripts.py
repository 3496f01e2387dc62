"""A transcript with its words' times, and what is told of it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Token(NamedTuple):
    """A label of an emission: its frames, the end exclusive, and its mean probability there."""

    label: int
    start: int
    stop: int
    confidence: float


class Word(NamedTuple):
    """A word, its times within the recording, and the mean probability of its labels.

    It has a speaker where they were told apart.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    speaker: str | None = None


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
    """Return the text alone, or a line for each turn of a speaker."""
    turns = list(cut_turns(transcript.words))
    if not turns or turns[0][0].speaker is None:
        return transcript.text
    return "\n".join(f"{turn[0].speaker}: {_join(turn)}" for turn in turns)


def cut_turns(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words that each speaker says in a row."""
    for _, turn in itertools.groupby(words, key=lambda word: word.speaker):
        yield list(turn)


def _join(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def write_json(transcript: Transcript) -> dict[str, Any]:
    """Return the text, the duration and the words, times in seconds."""
    words = [describe_word(word) for word in transcript.words]
    return {"text": transcript.text, "duration": round(transcript.duration_s, 3), "words": words}


def describe_chunks(transcript: Transcript) -> list[dict[str, Any]]:
    """Return the words as the `chunks` of Hugging Face's speech recognition, times in seconds.

    The pipeline of transformers calls their times `timestamp`, the task's specification
    `timestamps`.
    """
    chunks = []
    for word in map(describe_word, transcript.words):
        times = [word["start"], word["end"]]
        chunks.append({"text": word["word"], "timestamp": times, "timestamps": times})
    return chunks


def describe_word(word: Word) -> dict[str, Any]:
    """Return a word's text, times in seconds, confidence and, where there is one, its speaker."""
    speaker = {} if word.speaker is None else {"speaker": word.speaker}
    return {
        "word": word.text,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
        **speaker,
    }


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: its text and words."""

    text: str
    words: Sequence[Word]


# Gets the number of a waveform, that of a segment of it, and the segment.
SegmentListener = Callable[[int, int, Segment], None]


def write_segment(segment: Segment) -> dict[str, Any]:
    """Return the text, when it was said, and the words, times in seconds."""
    words = [describe_word(word) for word in segment.words]
    return {
        "text": segment.text,
        "start": words[0]["start"] if words else None,
        "end": words[-1]["end"] if words else None,
        "words": words,
    }
