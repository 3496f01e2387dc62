"""Turns of speech: from what the engine says after each piece to the events of items.

An item begins with its first text. Its deltas are what its text has grown by: partial texts only
grow, and where one should not, nothing is told until it does. Times count from the session's first
sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.realtime.events import Event, new_id, server_event

PREFIX = "conversation.item.input_audio_transcription"
Words = list[dict[str, Any]]


@dataclass
class Turn:
    """The item that is being spoken: its final texts and words, and the text that was told."""

    item_id: str = field(default_factory=lambda: new_id("item"))
    texts: list[str] = field(default_factory=list)
    words: Words = field(default_factory=list)
    told: str = ""
    ends_s: float = 0.0

    def text(self, partial: str = "") -> str:
        """Return the text so far."""
        return " ".join(each for each in (*self.texts, partial) if each)


class Turns:
    """The items of a session; `position_s` is how much audio the engine has heard."""

    def __init__(self) -> None:
        self.position_s = 0.0
        self._opened_s = self._ended_s = 0.0
        self._turn: Turn | None = None
        self._previous_id: str | None = None

    def open(self) -> None:
        """Count the times of what the engine says from here."""
        self._opened_s = self.position_s

    @property
    def has_audio(self) -> bool:
        """Tell whether there is audio that belongs to no item."""
        return self.position_s > self._ended_s

    def hear(self, said: Mapping[str, Any], detects_turns: bool) -> Iterator[Event]:
        """Yield what a piece brought: a final text ends a turn where turns are detected."""
        final = said["final"]
        yield from self._grow(said, detects_turns)
        if final and detects_turns:
            yield from self._stop()
            yield from self.end()

    def commit(self, said: Mapping[str, Any], detects_turns: bool) -> Iterator[Event]:
        """Yield what the engine's last answer brought, and the end of the item."""
        yield from self._grow(said, detects_turns)
        if self._turn and detects_turns:
            yield from self._stop()
        yield from self.end()

    def end(self) -> Iterator[Event]:
        """Yield the end of the item with all that was heard."""
        turn = self._turn or Turn()
        previous = {"previous_item_id": self._previous_id}
        item_id, transcript = turn.item_id, turn.text()
        yield server_event("input_audio_buffer.committed", item_id=item_id, **previous)
        yield server_event("conversation.item.added", item=_item(item_id, None), **previous)
        usage = {"type": "duration", "seconds": round(self.position_s - self._ended_s, 3)}
        yield server_event(
            f"{PREFIX}.completed",
            item_id=item_id,
            content_index=0,
            transcript=transcript,
            usage=usage,
            words=turn.words,
        )
        yield server_event("conversation.item.done", item=_item(item_id, transcript), **previous)
        self._previous_id = item_id
        self.clear()

    def fail(self, error: Mapping[str, str]) -> Iterator[Event]:
        """Yield that the item that is being spoken gets no transcript."""
        if self._turn:
            yield server_event(
                f"{PREFIX}.failed", item_id=self._turn.item_id, content_index=0, error=error
            )
        self.clear()

    def clear(self) -> None:
        """Forget the item that is being spoken."""
        self._turn, self._ended_s = None, self.position_s

    def _grow(self, said: Mapping[str, Any], detects_turns: bool) -> Iterator[Event]:
        """Yield the beginning of an item where it has one, and what its text has grown by."""
        final, partial = said["final"], said["partial"]
        # Behind the end of a turn, the next one begins with the next answer, which has its times.
        text = final if final and detects_turns else f"{final} {partial}".strip()
        if not text:
            return
        if self._turn is None:
            self._turn = Turn()
            if detects_turns:
                yield self._place("speech_started", "audio_start_ms", said["start"])
        turn = self._turn
        if final:
            turn.texts.append(final)
            turn.words += self._shift(said["words"])
            turn.ends_s = said["end"]
        whole = turn.text("" if final and detects_turns else partial)
        if whole.startswith(turn.told) and whole != turn.told:
            delta, turn.told = whole[len(turn.told) :], whole
            yield server_event(
                f"{PREFIX}.delta", item_id=turn.item_id, content_index=0, delta=delta
            )

    def _stop(self) -> Iterator[Event]:
        if self._turn:
            yield self._place("speech_stopped", "audio_end_ms", self._turn.ends_s)

    def _place(self, name: str, key: str, time_s: float | None) -> Event:
        time_ms = round((self._opened_s + (time_s or 0.0)) * 1000)
        item_id = self._turn.item_id if self._turn else ""
        return server_event(f"input_audio_buffer.{name}", item_id=item_id, **{key: time_ms})

    def _shift(self, words: Words) -> Words:
        return [
            each | {key: round(self._opened_s + each[key], 3) for key in ("start", "end")}
            for each in words
        ]


def _item(item_id: str, transcript: str | None) -> Event:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_audio", "transcript": transcript}],
    }
