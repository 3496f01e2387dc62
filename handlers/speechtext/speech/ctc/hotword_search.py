"""CTC beam search for hotwords, with or without a lexicon and a language model.

flashlight's search scores tokens or words, not both, and calls back for each of them; so requests
with hotwords are searched here, and all others there. As in flashlight, a hypothesis is worth its
best alignment, what ended in the same state is one hypothesis, and a word's language model score is
expected at its first letter already: the two differ in hotwords alone.
"""

import heapq
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from speechtext.allowance import check_time
from speechtext.speech.ctc.lexicon import AnyWords, LexiconWords
from speechtext.speech.hotword_scores import HotwordScores

# Labels whose probability is further below the best one's, as logarithms, are not tried at a frame,
# but for the delimiter: words of a lexicon end with it, also where the model hears none.
LABEL_RANGE = 15.0
# As numbers of Python, an hour of them would take hundreds of megabytes.
FRAMES_AT_ONCE = 500
BLANK = -1


class Spoken(NamedTuple):
    """The last label of a hypothesis, where it begins, and those before it."""

    label: int
    frame: int
    before: "Spoken | None"


class SearchState(NamedTuple):
    """What the rest of a search depends on; hypotheses that share it are merged.

    `last` is the label at the last frame, or `BLANK`.
    """

    last: int
    hotwords: int
    words: Any


class Candidate(NamedTuple):
    """A hypothesis one frame on; `label` is new where it is not `BLANK`."""

    score: float
    label: int
    before: Spoken | None


def search_hotwords(
    scores: torch.Tensor,
    hotwords: HotwordScores,
    words: AnyWords | LexiconWords,
    beam_width: int,
    blank: int,
    delimiter: int | None,
) -> list[tuple[int, int]]:
    """Return the labels of the best hypothesis, and the frame at which each begins.

    `scores` are log-probabilities, shape (frames, labels). Raises `DeadlineError`.
    """
    beam = {SearchState(BLANK, hotwords.start, words.start): Candidate(0.0, BLANK, None)}
    frames = enumerate(itertools.chain.from_iterable(map(_rows, scores.split(FRAMES_AT_ONCE))))
    for frame, row in frames:
        least = max(row) - LABEL_RANGE
        likely = [
            (label, score)
            for label, score in enumerate(row)
            if (score >= least or label == delimiter) and label != blank
        ]
        beam = _prune(_extend(beam, row, likely, hotwords, words, blank), beam_width, frame)
    return _unwind(_choose(beam, hotwords, words))


def _rows(scores: torch.Tensor) -> list[list[float]]:
    check_time()
    rows: list[list[float]] = scores.tolist()
    return rows


def _extend(
    beam: dict[SearchState, Candidate],
    row: Sequence[float],
    likely: Sequence[tuple[int, float]],
    hotwords: HotwordScores,
    words: AnyWords | LexiconWords,
    blank: int,
) -> dict[SearchState, Candidate]:
    found: dict[SearchState, Candidate] = {}
    for state, (total, _, spoken) in beam.items():
        last, hotword, word = state
        _add(found, SearchState(BLANK, hotword, word), total + row[blank], BLANK, spoken)
        if last != BLANK:
            _add(found, state, total + row[last], BLANK, spoken)
        for label, score in likely:
            following = words.step(word, label) if label != last else ()
            for then, language in following:
                next_hotword, gain = hotwords.step(hotword, label)
                value = total + score + gain + language
                _add(found, SearchState(label, next_hotword, then), value, label, spoken)
    return found


def _add(
    found: dict[SearchState, Candidate],
    state: SearchState,
    score: float,
    label: int,
    before: Spoken | None,
) -> None:
    known = found.get(state)
    if known is None or score > known.score:
        found[state] = Candidate(score, label, before)


def _prune(
    found: dict[SearchState, Candidate], beam_width: int, frame: int
) -> dict[SearchState, Candidate]:
    best = heapq.nlargest(beam_width, found.items(), key=lambda item: item[1].score)
    return {
        state: Candidate(score, BLANK, before if label == BLANK else Spoken(label, frame, before))
        for state, (score, label, before) in best
    }


def _choose(
    beam: dict[SearchState, Candidate], hotwords: HotwordScores, words: AnyWords | LexiconWords
) -> Spoken | None:
    """Return the best hypothesis at the end, of those that end with a word if there are any."""
    whole = {state: each for state, each in beam.items() if words.may_end(state.words)} or beam

    def value(state: SearchState) -> float:
        ends = hotwords.finish(state.hotwords) + words.finish(state.words)
        return whole[state].score + ends

    return whole[max(whole, key=value)].before


def _unwind(spoken: Spoken | None) -> list[tuple[int, int]]:
    labels = []
    while spoken is not None:
        labels.append((spoken.label, spoken.frame))
        spoken = spoken.before
    return labels[::-1]
