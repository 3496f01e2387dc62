"""Segments of speech in a CTC emission, found while it grows."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.transcripts import Segment, SegmentListener, Token

Words = list[list[Token]]


class SegmentLimits(NamedTuple):
    """What ends a segment: a silence of so many frames, or that the next word makes it too long."""

    silent_frames: int
    longest_frames: int

    def split(self, words: Sequence[list[Token]]) -> list[Words]:
        """Return the words of each segment."""
        segments: list[Words] = []
        for word in words:
            if not segments or self._separates(segments[-1], word):
                segments.append([])
            segments[-1].append(word)
        return segments

    def _separates(self, segment: Words, word: Sequence[Token]) -> bool:
        silent_frames = word[0].start - segment[-1][-1].stop
        frames = word[-1].stop - segment[0][0].start
        return silent_frames >= self.silent_frames or frames > self.longest_frames


class BestPathSegments:
    """Follows the best path of an emission that comes piece by piece, and takes segments off it.

    They are those of the whole emission, whatever the pieces are.
    """

    def __init__(
        self,
        blank: int,
        delimiter: int | None,
        limits: SegmentLimits,
        starts: frozenset[int] = frozenset(),
    ) -> None:
        self._blank = blank
        self._delimiter = delimiter
        self._starts = starts
        self._limits = limits
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
        words = group_words(self._tokens, self._delimiter, self._starts)
        open_word = bool(self._tokens) and self._tokens[-1].label != self._delimiter
        segments = self._limits.split(words)
        if not segments:
            return []
        silent_frames = self._first - segments[-1][-1][-1].stop
        silent = silent_frames >= self._limits.silent_frames and not open_word
        ended = segments if silent else segments[:-1]
        self._drop(ended)
        return ended

    def take_rest(self) -> list[Words]:
        """Return the segments that are left of an emission that has ended."""
        if self._rest is not None:
            self._follow(self._rest)
        words = group_words(self._tokens, self._delimiter, self._starts)
        return self._limits.split(words)

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
