"""Sessions of live speech: what each has said so far, and how long it may stay silent."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from device_io import STRICT, DtypeName, RequestError
from live_audio import LiveAudio
from rnnt_recognition import Recording
from transcripts import Token


@settings_dataclass(frozen=True, config=STRICT)
class LiveSettings:
    """The `handler` keys of a live archive's YAML."""

    dtype: DtypeName = "float32"
    threads: int | None = None
    step_max_tokens: Annotated[int, KeyOptions(ge=1)] = 100
    max_audio_seconds: float = 3600.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8


@settings_dataclass(frozen=True, config={"extra": "ignore"})
class SequenceSettings:
    """TorchServe's keys for sessions, of which it holds the clients to the first two."""

    sequenceBatching: bool  # noqa: N815
    maxNumSequence: int = 1  # noqa: N815
    sequenceMaxIdleMSec: int = 10_000  # noqa: N815


@dataclass
class Session:
    """A person who speaks: the audio so far, its recognition, and the tokens told as final."""

    audio: LiveAudio
    recording: Recording
    told: int = 0
    used_s: float = field(default_factory=time.monotonic)


class Piece(NamedTuple):
    """What a request brought: its session, and whether it was the last."""

    name: str
    session: Session
    ended: bool


class Sessions:
    """The open sessions of a worker, by the identifier that TorchServe gives each."""

    def __init__(
        self, most: int, idle_s: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._idle_s = idle_s
        self._clock_s = clock_s
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def expire(self) -> None:
        """Forget the sessions that were silent for too long."""
        oldest_s = self._clock_s() - self._idle_s
        self._open = {
            name: session for name, session in self._open.items() if session.used_s >= oldest_s
        }

    def begin(self, name: str, create: Callable[[], Session]) -> Session:
        """Open a session; raises `RequestError` 409 for an open one, 503 for one too many."""
        if name in self._open:
            raise RequestError(
                HTTPStatus.CONFLICT,
                "SessionExists",
                "Expected a new ts_request_sequence_id with ts_request_sequence_start, got that of "
                "an open session.",
            )
        if len(self._open) >= self._most:
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "TooManySessions",
                f"Expected at most {self._most} open sessions. Try again when one has ended.",
            )
        self._open[name] = create()
        return self._open[name]

    def find(self, name: str) -> Session:
        """Return an open session; raises `RequestError` 410 where there is none of this name."""
        session = self._open.get(name)
        if session is None:
            raise RequestError(
                HTTPStatus.GONE,
                "SessionGone",
                "Expected the ts_request_sequence_id of an open session, got one that was never "
                f"opened, has ended or was silent for {self._idle_s:g} s. Open a new one with "
                "ts_request_sequence_start: true.",
            )
        session.used_s = self._clock_s()
        return session

    def end(self, name: str) -> None:
        """Forget a session."""
        self._open.pop(name, None)


def read_sequence_settings(config: Any) -> SequenceSettings:
    """Return TorchServe's keys for sessions; raises `ValueError` where there are none."""
    if not (config or {}).get("sequenceBatching"):
        raise ValueError("The model's YAML needs sequenceBatching: true for live sessions.")
    return SequenceSettings(**config)


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
