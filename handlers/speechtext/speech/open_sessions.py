"""The live sessions that are open at a time: how many, and how long each may stay silent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from speechtext.errors import SessionConflictError, SessionGoneError, UnavailableError
from speechtext.speech.live_sessions import LiveSession


class AudioChunk(NamedTuple):
    """What a request brought: its session, whether it was the last, and how much audio it had."""

    name: str
    session: LiveSession
    ends: bool
    duration_s: float


class OpenSessions:
    """The open sessions of a worker, by the identifier of each."""

    def __init__(
        self, most: int, idle_s: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._idle_s = idle_s
        self._clock_s = clock_s
        # With the time when each was used last.
        self._open: dict[str, tuple[LiveSession, float]] = {}
        # What the worker took for its latest batch, in seconds.
        self._worked_s = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def expire(self) -> None:
        """Forget the sessions that were silent for too long.

        The latest batch is not counted: what was said meanwhile comes only now.
        """
        oldest_s = self._clock_s() - self._worked_s - self._idle_s
        self._open = {name: each for name, each in self._open.items() if each[1] >= oldest_s}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Answer a batch, which uses its sessions until it is answered."""
        began_s = self._clock_s()
        try:
            yield
        finally:
            ended_s = self._clock_s()
            self._worked_s = ended_s - began_s
            for name, (session, used_s) in self._open.items():
                self._open[name] = session, ended_s if used_s >= began_s else used_s

    def begin(self, name: str, session: LiveSession) -> None:
        """Open a session.

        Raises `SessionConflictError` for an open one, `UnavailableError` for one too many.
        """
        if name in self._open:
            raise SessionConflictError(
                "SessionExists", "Expected a new session's identifier, got that of an open session."
            )
        if len(self._open) >= self._most:
            raise UnavailableError(
                "TooManySessions",
                f"Expected at most {self._most} open sessions. Try again when one has ended.",
            )
        self._open[name] = session, self._clock_s()

    def find(self, name: str) -> LiveSession:
        """Return an open session; raises `SessionGoneError` where there is none of this name."""
        if name not in self._open:
            raise SessionGoneError(
                "SessionGone",
                "Expected the identifier of an open session, got one that was never opened, has "
                f"ended, was silent for {self._idle_s:g} s or lost with its worker. Open a new "
                "one.",
            )
        session, _ = self._open[name]
        self._open[name] = session, self._clock_s()
        return session

    def is_open(self, name: str) -> bool:
        """Tell whether there is an open session of this name."""
        return name in self._open

    def end(self, name: str) -> None:
        """Forget a session."""
        self._open.pop(name, None)
