"""What the engine recognised: text, words and times, and what OpenAI's shapes tell of them."""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gateway.engine import Answer

JSON = "application/json"
# Confidences have four digits: one that was rounded to 0 is at most half of the last.
LEAST_CONFIDENCE = 0.00005
# A silence ends a segment, and so does its length.
PAUSE_S, SEGMENT_S = 0.8, 30.0


class Word(NamedTuple):
    """A word, its times within the recording, and the mean probability of its labels.

    It has a speaker where they were told apart.
    """

    word: str
    start: float
    end: float
    confidence: float
    speaker: str | None = None

    @property
    def logprob(self) -> float:
        """Return the logarithm of the confidence."""
        return math.log(max(self.confidence, LEAST_CONFIDENCE))


class Recognition(NamedTuple):
    """A recording's text; None for what the model does not tell."""

    text: str
    duration_s: float | None
    words: Sequence[Word] | None


def read_answer(answer: Answer) -> Recognition:
    """Return what an answer tells."""
    if answer.media_type != JSON:
        return Recognition(answer.body.decode(), None, None)
    content = json.loads(answer.body)
    return Recognition(content["text"], content["duration"], read_words(content["words"]))


_WORDS = TypeAdapter(list[Word])


def read_words(content: Any) -> list[Word]:
    """Return words out of the engine's JSON."""
    return _WORDS.validate_python(content)


def cut_segments(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each segment, of one speaker: cut at pauses, and where it is too long."""
    segment: list[Word] = []
    for word in words:
        if segment and not _goes_on(segment, word):
            yield segment
            segment = []
        segment.append(word)
    if segment:
        yield segment


def _goes_on(segment: Sequence[Word], word: Word) -> bool:
    return (
        word.start - segment[-1].end <= PAUSE_S
        and word.end - segment[0].start <= SEGMENT_S
        and word.speaker == segment[-1].speaker
    )


def describe_words(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return words with their times, as `verbose_json` has them."""
    return [{"word": each.word, "start": each.start, "end": each.end} for each in words]


def describe_segments(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return segments with all fields that typed clients expect."""
    return [_describe_segment(number, each) for number, each in enumerate(cut_segments(words))]


def _describe_segment(number: int, words: Sequence[Word]) -> dict[str, Any]:
    text = " ".join(each.word for each in words)
    spoken = text.encode()
    return {
        "id": number,
        # No model here works in windows that it seeks, has ids that clients know, or draws words.
        "seek": 0,
        "start": words[0].start,
        "end": words[-1].end,
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(each.logprob for each in words) / len(words), 6),
        "compression_ratio": round(len(spoken) / len(zlib.compress(spoken)), 6),
        "no_speech_prob": 0.0,
    }


def describe_logprobs(words: Sequence[Word], follow: bool = False) -> list[dict[str, Any]]:
    """Return words as the tokens that make up the text; `follow` where words came before them."""
    tokens = [
        (" " if follow or index else "") + each.word for index, each in enumerate(words)
    ]  # fmt: skip
    return [
        {"token": token, "bytes": list(token.encode()), "logprob": round(each.logprob, 6)}
        for token, each in zip(tokens, words, strict=True)
    ]


def usage_of(duration_s: float) -> Mapping[str, Any]:
    """Return what a recording counts for."""
    return {"type": "duration", "seconds": duration_s}
