"""Segments of speech in a CTC emission, which silences end: found while the emission grows."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.transcripts import Segment, SegmentListener, Token

Words = list[list[Token]]


def split_at_silences(words: Sequence[list[Token]], silent_frames: int) -> list[Words]:
    """Return the words of each segment: one ends where no label follows for so many frames."""
    segments: list[Words] = []
    for word in words:
        if not segments or word[0].start - segments[-1][-1][-1].stop >= silent_frames:
            segments.append([])
        segments[-1].append(word)
    return segments


class BestPathSegments:
    """Follows the best path of an emission that comes piece by piece, and takes segments off it.

    They are those of the whole emission, whatever the pieces are.
    """

    def __init__(self, blank: int, delimiter: int | None, silent_frames: int) -> None:
        self._blank = blank
        self._delimiter = delimiter
        self._silent_frames = silent_frames
        self._rest: torch.Tensor | None = None
        self._first = 0
        self._tokens: list[Token] = []

    def take_ended(self, probabilities: torch.Tensor) -> list[Words]:
        """Take further frames, shape (frames, labels); return the segments that ended since."""
        known = probabilities if self._rest is None else torch.cat([self._rest, probabilities])
        # The run of a label at the end may go on.
        path = known.argmax(dim=-1)
        changes = (path[1:] != path[:-1]).nonzero()
        certain = int(changes[-1]) + 1 if len(changes) else 0
        self._follow(known[:certain])
        self._rest = known[certain:]
        words = group_words(self._tokens, self._delimiter)
        open_word = bool(self._tokens) and self._tokens[-1].label != self._delimiter
        segments = split_at_silences(words, self._silent_frames)
        if not segments:
            return []
        silent = self._first - segments[-1][-1][-1].stop >= self._silent_frames
        ended = segments if silent and not open_word else segments[:-1]
        self._drop(ended)
        return ended

    def take_rest(self) -> list[Words]:
        """Return the segments that are left of an emission that has ended."""
        if self._rest is not None:
            self._follow(self._rest)
        words = group_words(self._tokens, self._delimiter)
        return split_at_silences(words, self._silent_frames)

    def _follow(self, probabilities: torch.Tensor) -> None:
        first = self._first
        for label, start, stop, confidence in find_best_path(probabilities, self._blank):
            self._tokens.append(Token(label, first + start, first + stop, confidence))
        self._first += len(probabilities)

    def _drop(self, ended: Sequence[Words]) -> None:
        if ended:
            stop = ended[-1][-1][-1].stop
            self._tokens = [token for token in self._tokens if token.start >= stop]


class SegmentTeller:
    """Tells a listener the segments of several emissions, each once and in order."""

    def __init__(self, listener: SegmentListener, write: Callable[[Words], Segment]) -> None:
        self._listener = listener
        self._write = write
        self._told: Counter[int] = Counter()

    def tell(self, index: int, segments: Sequence[Words]) -> None:
        """Tell further segments of an emission."""
        for words in segments:
            self._listener(index, self._told[index], self._write(words))
            self._told[index] += 1
