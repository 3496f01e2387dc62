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
        tokens, certain = recording.best_tokens(), len(recording.tokens)
        ends = find_segment_ends(tokens, self._taken, recording.frames, self._silent_frames)
        segments = []
        for end in ends:
            if end <= certain:
                segments.append(tokens[self._taken : end])
                self._taken = end
        return segments

    def take_rest(self, recording: Recording) -> list[list[Token]]:
        """Return what is left of a recording that has ended: a segment, or none."""
        rest = recording.best_tokens()[self._taken :]
        return [rest] if rest else []
