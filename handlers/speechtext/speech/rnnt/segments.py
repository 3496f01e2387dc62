"""Segments of speech, which silences end: found as soon as they are over."""

from collections.abc import Sequence

from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.transcripts import Token


def find_segment_ends(
    tokens: Sequence[Token], first: int, frames: int, silent_frames: int
) -> list[int]:
    """Return how many tokens have been said at the end of each segment after the `first` tokens.

    A segment ends where no token follows its last one for so many frames; `frames` are those heard
    so far. It does not depend on how the audio came.
    """
    starts = [token.start for token in tokens[first + 1 :]] + [frames]
    return [
        first + index + 1
        for index, (token, start) in enumerate(zip(tokens[first:], starts, strict=False))
        if start - token.stop >= silent_frames
    ]


class SegmentTracker:
    """Takes the segments off a recording, each once and as soon as it is over."""

    def __init__(self, silent_frames: int) -> None:
        self._silent_frames = silent_frames
        self._taken = 0

    def take_ended(self, recording: Recording) -> list[list[Token]]:
        """Return the segments that ended since, and of which every token is certain."""
        tokens = recording.best_tokens()
        return self._take(tokens, self._find_ends(tokens, recording), len(recording.tokens))

    def take_rest(self, recording: Recording) -> list[list[Token]]:
        """Return the segments that are left of a recording that has ended."""
        tokens = recording.best_tokens()
        # A search may have been certain of the last ones no sooner.
        ends = [*self._find_ends(tokens, recording), len(tokens)]
        return self._take(tokens, ends, len(tokens))

    def _find_ends(self, tokens: Sequence[Token], recording: Recording) -> list[int]:
        return find_segment_ends(tokens, self._taken, recording.frames, self._silent_frames)

    def _take(
        self, tokens: Sequence[Token], ends: Sequence[int], certain: int
    ) -> list[list[Token]]:
        segments = []
        for end in ends:
            if self._taken < end <= certain:
                segments.append(list(tokens[self._taken : end]))
                self._taken = end
        return segments
