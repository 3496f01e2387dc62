"""Which stretches of a recording a word of its transcript depends on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from speechtext.parameters import impossible
from speechtext.speech.attribution import (
    Attribution,
    AudioExplanationParameters,
    Stretch,
    attribute,
    write_stretches,
)
from speechtext.speech.chunks import Chunk
from speechtext.speech.frame_models import FrameModel
from speechtext.speech.stretch_picture import draw_stretches
from speechtext.speech.transcripts import Token, Word, describe_word


class WordExplanation(NamedTuple):
    """What each stretch adds to the mean log-probability of a word's labels, in their frames."""

    waveform: torch.Tensor
    method: str
    words: Sequence[Word]
    number: int
    found: Attribution


def explain_word(
    model: FrameModel,
    waveform: torch.Tensor,
    chunks: Sequence[Chunk],
    words: Sequence[Word],
    tokens: Sequence[Sequence[Token]],
    asked: AudioExplanationParameters,
) -> WordExplanation:
    """Return what the stretches of the window that a word is in add to it.

    `model` gives logits of labels, `chunks` are the windows of a waveform of shape (samples,), and
    `tokens` those of each word. Raises `ImpossibleRequestError` for a target that is no word of the
    transcript, and `DeadlineError`.
    """
    number = find_word(words, asked.target)
    first = tokens[number][0].start
    chunk = next(each for each in chunks if each.first_kept <= first < each.last_kept)
    judge = _judge(tokens[number], chunk)
    found = attribute(model, judge, lambda _: 0, waveform, chunk, asked)
    return WordExplanation(waveform, asked.method, words, number, found)


def find_word(words: Sequence[Word], target: str | int | None) -> int:
    """Return the number of a word, by its text or number; raises `ImpossibleRequestError`."""
    if not words:
        raise impossible("target", "absent: nothing is said in this recording", "one")
    texts = [word.text.casefold() for word in words]
    if isinstance(target, str) and target.casefold() in texts:
        return texts.index(target.casefold())
    number = str(target)
    # Python reads no number of thousands of digits.
    if number.isdecimal() and len(number) <= len(str(len(words))) and int(number) < len(words):
        return int(number)
    raise impossible(
        "target", f"a word of the transcript, or its number from 0 to {len(words) - 1}", "another"
    )


def _judge(tokens: Sequence[Token], chunk: Chunk) -> Callable[[torch.Tensor], torch.Tensor]:
    places = [
        (frame - chunk.start, token.label)
        for token in tokens
        for frame in range(token.start, min(token.stop, chunk.stop))
    ]
    frames, labels = (list(each) for each in zip(*places, strict=True))

    def judge(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=-1)[frames, labels].mean(dim=0, keepdim=True)

    return judge


def write_word_explanation(explanation: WordExplanation) -> dict[str, Any]:
    """Return an explanation as JSON: the word, and stretches with the words that are in them."""
    words, found = explanation.words, explanation.found
    stretches = [
        {**written, "words": _words_in(words, stretch)}
        for written, stretch in zip(write_stretches(found.stretches), found.stretches, strict=True)
    ]
    return {
        "method": explanation.method,
        "target": explanation.number,
        "word": describe_word(words[explanation.number]),
        "log_probability": float(found.outputs[0]),
        "change": found.change,
        "delta": found.delta,
        "stretches": stretches,
    }


def _words_in(words: Sequence[Word], stretch: Stretch) -> list[str]:
    return [
        word.text for word in words if word.start_s < stretch.end_s and stretch.start_s < word.end_s
    ]


def draw_word_explanation(explanation: WordExplanation) -> bytes:
    """Return a PNG picture: the waveform with its words, and what each stretch adds to the word."""
    word, stretches = explanation.words[explanation.number], explanation.found.stretches
    heard = [
        each
        for each in explanation.words
        if stretches[0].start_s <= each.start_s and each.end_s <= stretches[-1].end_s
    ]
    return draw_stretches(explanation.waveform, stretches, word.text, "log-probability", heard)
