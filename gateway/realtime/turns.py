"""Turns of speech: from what the engine says after each piece, to the events of items.

An item begins with its first text. Its deltas are what its text has grown by: partial texts only
grow, and where one should not, nothing is told until it does. Times count from the session's first
sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.openai.recognitions import read_words
from gateway.openai.speakers import describe_turns
from gateway.realtime.events import Event, new_id, server_event

PREFIX = "conversation.item.input_audio_transcription"
Said = Mapping[str, Any]
# What an engine without a session says.
SILENCE: Said = {"final": "", "partial": "", "words": [], "start": None, "end": None}
Words = list[dict[str, Any]]


@dataclass
class Turn:
    """The item that is being spoken: its final texts and words, and the text that was told."""

    item_id: str = field(default_factory=lambda: new_id("item"))
    texts: list[str] = field(default_factory=list)
    words: Words = field(default_factory=list)
    told: str = ""

    def text(self, partial: str = "") -> str:
        """Return the text so far."""
        return " ".join(each for each in (*self.texts, partial) if each)

    def grow(self, partial: str) -> str:
        """Return what was not told yet of the text so far."""
        text = self.text(partial)
        if not text.startswith(self.told):
            return ""
        delta, self.told = text[len(self.told) :], text
        return delta


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
    def open_s(self) -> float:
        """Return how much audio there was since."""
        return self.position_s - self._opened_s

    @property
    def has_audio(self) -> bool:
        """Tell whether there is audio that belongs to no item yet."""
        return self.position_s > self._ended_s

    @property
    def is_speaking(self) -> bool:
        """Tell whether an item has begun, and not ended."""
        return self._turn is not None

    def hear(self, said: Said, detects_turns: bool) -> Iterator[Event]:
        """Yield what a piece brought: a final text ends a turn, where turns are detected."""
        ends = detects_turns and bool(said["final"])
        # What follows the end of a turn comes again with the next answer, which has its times.
        yield from self._grow(said, "" if ends else said["partial"], detects_turns)
        if ends:
            yield from self._end(said, detects_turns)

    def commit(self, said: Said, detects_turns: bool) -> Iterator[Event]:
        """Yield the end of an item, with the last answer of the engine's session."""
        yield from self._grow(said, said["partial"], detects_turns)
        yield from self._end(said, detects_turns)

    def fail(self, error: Mapping[str, str]) -> Iterator[Event]:
        """Yield that the item that is being spoken gets no transcript."""
        if self._turn:
            yield _transcription("failed", self._turn, error=error)
        self.clear()

    def clear(self) -> None:
        """Forget the item that is being spoken."""
        self._turn, self._ended_s = None, self.position_s

    def _grow(self, said: Said, partial: str, detects_turns: bool) -> Iterator[Event]:
        """Yield the beginning of an item, where it has one, and what its text has grown by."""
        if not (said["final"] or partial):
            return
        if self._turn is None:
            self._turn = Turn()
            if detects_turns:
                yield self._place("speech_started", "audio_start_ms", self._turn, said["start"])
        if said["final"]:
            self._turn.texts.append(said["final"])
            self._turn.words += [self._shift(each) for each in said["words"]]
        if delta := self._turn.grow(partial):
            yield _transcription("delta", self._turn, delta=delta)

    def _end(self, said: Said, detects_turns: bool) -> Iterator[Event]:
        """Yield the end of the item, which has all that was heard since the one before it."""
        turn = self._turn or Turn()
        if detects_turns and self._turn:
            yield self._place("speech_stopped", "audio_end_ms", turn, said["end"])
        place = {"previous_item_id": self._previous_id}
        usage = {"type": "duration", "seconds": round(self.position_s - self._ended_s, 3)}
        text = turn.text()
        yield server_event("input_audio_buffer.committed", item_id=turn.item_id, **place)
        yield server_event("conversation.item.added", item=_item(turn, None), **place)
        if any("speaker" in word for word in turn.words):
            for segment in describe_turns(read_words(turn.words)):
                yield _transcription("segment", turn, **_segment(segment))
        yield _transcription("completed", turn, transcript=text, usage=usage, words=turn.words)
        yield server_event("conversation.item.done", item=_item(turn, text), **place)
        self._previous_id = turn.item_id
        self.clear()

    def _place(self, name: str, key: str, turn: Turn, time_s: float | None) -> Event:
        time_ms = round((self._opened_s + (self.open_s if time_s is None else time_s)) * 1000)
        return server_event(f"input_audio_buffer.{name}", item_id=turn.item_id, **{key: time_ms})

    def _shift(self, word: dict[str, Any]) -> dict[str, Any]:
        return word | {key: round(self._opened_s + word[key], 3) for key in ("start", "end")}


def _transcription(name: str, turn: Turn, **fields: Any) -> Event:
    return server_event(f"{PREFIX}.{name}", item_id=turn.item_id, content_index=0, **fields)


def _segment(turn: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: turn[name] for name in ("start", "end", "speaker", "text")}
    return {"id": new_id("seg"), **told}


def _item(turn: Turn, transcript: str | None) -> Event:
    return {
        "id": turn.item_id,
        "object": "realtime.item",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_audio", "transcript": transcript}],
    }
