"""Sessions of live speech: what each has said so far, and how long it may stay silent."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from device_io import STRICT, DtypeName, RequestError
from live_audio import LiveAudio
from rnnt_recognition import Recording


@settings_dataclass(frozen=True, config=STRICT)
class LiveSettings:
    """The `handler` keys of a live archive's YAML."""

    dtype: DtypeName = "float32"
    threads: int | None = None
    step_max_tokens: Annotated[int, KeyOptions(ge=1)] = 100
    max_audio_seconds: float = 3600.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8
    max_sessions: Annotated[int, KeyOptions(ge=1)] = 8


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
    ends: bool


class Sessions:
    """The open sessions of a worker, by the identifier of each."""

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

    def begin(self, name: str, session: Session) -> None:
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
        self._open[name] = session

    def find(self, name: str) -> Session:
        """Return an open session; raises `RequestError` 410 where there is none of this name."""
        session = self._open.get(name)
        if session is None:
            raise RequestError(
                HTTPStatus.GONE,
                "SessionGone",
                "Expected the ts_request_sequence_id of an open session, got one that was never "
                f"opened, has ended, was silent for {self._idle_s:g} s or lost with its worker. "
                "Open a new one with ts_request_sequence_start: true.",
            )
        session.used_s = self._clock_s()
        return session

    def is_open(self, name: str) -> bool:
        """Tell whether there is an open session of this name."""
        return name in self._open

    def end(self, name: str) -> None:
        """Forget a session."""
        self._open.pop(name, None)


def read_idle_seconds(config: Mapping[str, Any] | None) -> float:
    """Return after how long a silent session is forgotten, by its key in a model's YAML.

    Raises `ValueError` where there is none, or where the keys that make TorchServe send all pieces
    of a session to one of several workers are not together.
    """
    keys = config or {}
    idle_ms = keys.get("sequenceMaxIdleMSec")
    if not idle_ms:
        raise ValueError("The model's YAML needs sequenceMaxIdleMSec for live sessions.")
    sticky = [bool(keys.get(key)) for key in ("sequenceBatching", "continuousBatching")]
    if (any(sticky) or keys.get("maxWorkers", 1) > 1) and not all(sticky):
        raise ValueError(
            "The model's YAML needs both sequenceBatching: true and continuousBatching: true for "
            "live sessions on more than one worker."
        )
    return float(idle_ms) / 1000


def read_sequence_headers(context: Any, index: int) -> tuple[bool, bool]:
    """Tell whether a request is the first and the last of its session.

    Raises `RequestError` 400 for names in another case, which TorchServe does not recognise with
    sequenceBatching: it would take each piece for a session of its own.
    """
    keys = (
        context.header_key_sequence_id,
        context.header_key_sequence_start,
        context.header_key_sequence_end,
    )
    headers = context.get_all_request_header(index)
    strange = [name for name in headers if name not in keys and name.lower() in keys]
    if strange:
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "InvalidHeader",
            f"Expected the header {strange[0].lower()} in this case, got {strange[0]}.",
        )
    return headers.get(keys[1]) == "true", headers.get(keys[2]) == "true"
