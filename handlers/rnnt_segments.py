"""Segments of speech, which silences end: told as soon as they are over."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rnnt_recognition import Recording
from transcripts import Token


def find_segment_ends(
    tokens: Sequence[Token], first: int, frames: int, silent_frames: int
) -> list[int]:
    """Return how many tokens have been said at the end of each segment after the `first` tokens.

    A segment ends where no token follows its last one for so many frames; `frames` are those heard
    so far. It does not depend on how the audio came.
    """
    starts = [token.start for token in tokens[first + 1 :]] + [frames]
    return [
        first + place + 1
        for place, (token, start) in enumerate(zip(tokens[first:], starts, strict=False))
        if start - token.stop >= silent_frames
    ]


class SegmentStream:
    """Sends the segments of a recording, a JSON line each, once and as soon as they are over."""

    def __init__(
        self,
        send: Callable[[int, str], None],
        describe: Callable[[Sequence[Token]], dict[str, Any]],
        silent_frames: int,
    ) -> None:
        self._send = send
        self._describe = describe
        self._silent_frames = silent_frames
        self._told = 0

    def tell(self, recording: Recording) -> None:
        """Send the segments that ended, and of which every token is certain."""
        tokens, certain = recording.best_tokens(), len(recording.tokens)
        ends = find_segment_ends(tokens, self._told, recording.frames, self._silent_frames)
        for end in ends:
            if end <= certain:
                self._send(self._told, self._line(tokens[self._told : end]))
                self._told = end

    def finish(self, recording: Recording, summary: dict[str, Any]) -> str:
        """Return the lines that are left: the last segment's, and a summary."""
        rest = recording.best_tokens()[self._told :]
        return (self._line(rest) if rest else "") + json.dumps(summary, ensure_ascii=False) + "\n"

    def _line(self, tokens: Sequence[Token]) -> str:
        return json.dumps(self._describe(tokens), ensure_ascii=False) + "\n"
