"""What a speech model saw: its emission as an alignment of tokens and words, with alternatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from speechtext.speech.transcripts import Token, Transcript, describe_word, write_json

# What a word may be instead, with the probability of each, the most probable first.
Alternatives = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Alignment:
    """A recording as the model saw it.

    `waveform` has shape (samples,), `probabilities` (frames, labels); `labels` are their names,
    `words` the tokens of each word of the transcript, and `find_alternatives` tells what a word's
    tokens may be instead.
    """

    waveform: torch.Tensor
    probabilities: torch.Tensor
    labels: Sequence[str]
    frame_s: float
    transcript: Transcript
    words: Sequence[Sequence[Token]]
    find_alternatives: Callable[[Sequence[Token]], Alternatives]


class Recognition(NamedTuple):
    """What a recogniser made of a recording: a transcript and, when asked for, the alignment."""

    transcript: Transcript
    align: Callable[[], Alignment]


def describe_alignment(alignment: Alignment) -> dict[str, Any]:
    """Return the text, tokens with frames, times and probability, and words with alternatives."""
    words = [
        {
            **describe_word(word),
            "alternatives": [
                {"word": text, "probability": round(probability, 4)}
                for text, probability in alignment.find_alternatives(tokens)
            ],
        }
        for word, tokens in zip(alignment.transcript.words, alignment.words, strict=True)
    ]
    tokens = [_describe_token(alignment, token) for word in alignment.words for token in word]
    return {
        **write_json(alignment.transcript),
        "words": words,
        "frame_duration": alignment.frame_s,
        "tokens": tokens,
    }


def _describe_token(alignment: Alignment, token: Token) -> dict[str, Any]:
    return {
        "token": alignment.labels[token.label],
        "start_frame": token.start,
        "end_frame": token.stop,
        "start": round(token.start * alignment.frame_s, 3),
        "end": round(token.stop * alignment.frame_s, 3),
        "probability": round(token.confidence, 4),
    }
