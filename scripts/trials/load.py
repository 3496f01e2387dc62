"""Good requests from many connections at once, at a pace, and what came of each."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

from trials.good_traffic import (
    LIVE_MODEL,
    TIMEOUT_S,
    Script,
    Session,
    cut_speech,
    explanations,
    is_right,
    learn_script,
    predictions,
)
from trials.http_client import LOST, REFUSED, Client, Outcome, Request

# A client that is not let in asks again after this long.
RETRY_S = 0.25
# Live speech comes in pieces of a fifth of a second.
SESSION_PIECES, PIECE_S = 8, 0.2
LIVE_TARGET = f"/predictions/{LIVE_MODEL}"


class Verdict(StrEnum):
    """What came of a request."""

    RIGHT = "right"
    ERROR = "honest error"
    WRONG = "wrong"
    LOST = "lost"
    REFUSED = "refused"


class Sample(NamedTuple):
    """A request's end: `duration_s` is from when it was sent, `delay_s` from when it was due."""

    finished_s: float
    duration_s: float
    delay_s: float
    verdict: Verdict
    target: str
    status: int | None


@dataclass(frozen=True)
class Traffic:
    """What clients do: single requests of every kind, and live sessions."""

    singles: Sequence[Script]
    session: Sequence[bytes]

    def scripts(self, number: int, live: bool) -> Iterator[Script]:
        """Yield what a connection does, without end."""
        if not live:
            order = itertools.cycle(self.singles)
            yield from itertools.islice(order, number % len(self.singles), None)
        pieces = cut_speech(SESSION_PIECES)
        while True:
            requests = Session(uuid.uuid4().hex, pieces).requests()
            yield list(zip(requests, self.session, strict=True))


def learn_traffic(address: tuple[str, int]) -> Traffic:
    """Return the traffic of a server with the seven archives."""
    singles = [learn_script(address, [each]) for each in (*predictions(), *explanations())]
    learned = learn_script(address, Session("learn", cut_speech(SESSION_PIECES)).requests())
    return Traffic(singles, [answer for _, answer in learned])


def judge(outcome: Outcome, expected: bytes) -> Verdict:
    """Return what came of a request."""
    if outcome.failure:
        return {REFUSED: Verdict.REFUSED, LOST: Verdict.LOST}[outcome.failure]
    if outcome.status != HTTPStatus.OK:
        return Verdict.ERROR
    return Verdict.RIGHT if is_right(outcome, expected) else Verdict.WRONG


@dataclass
class Load:
    """Connections that keep on asking.

    Those in live speech send pieces at the pace of speech; the others ask as fast as can be, or
    `rate_hz` times a second together.
    """

    address: tuple[str, int]
    traffic: Traffic
    connections: int
    live_connections: int = 0
    rate_hz: float | None = None
    timeout_s: float = TIMEOUT_S
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _started_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Ask while the block runs, and wait for the last answers."""
        self._started_s = time.monotonic()
        threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(self.connections)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def count(self, since_s: float = 0.0) -> Counter[Verdict]:
        """Return how many requests ended how, from a time on."""
        return Counter(each.verdict for each in self.samples if each.finished_s >= since_s)

    def _ask(self, number: int) -> None:
        client = Client(self.address, self.timeout_s)
        live = number < self.live_connections
        gap_s = PIECE_S if live else self._single_gap_s()
        due_s = self._started_s + gap_s * number / self.connections
        for script in self.traffic.scripts(number, live):
            due_s = self._wait_until(due_s, gap_s)
            if self._stop.is_set():
                break
            # A session that began is ended, too: it would hold the place of another.
            for request, expected in script:
                due_s = self._wait_until(due_s, gap_s)
                if not self._send(client, request, expected, due_s):
                    break
                due_s += gap_s
        client.close()

    def _single_gap_s(self) -> float:
        """Return the seconds between the requests of a connection that is not in live speech."""
        singles = self.connections - self.live_connections
        return singles / self.rate_hz if self.rate_hz else 0.0

    def _wait_until(self, due_s: float, gap_s: float) -> float:
        """Wait for the time of the next request; return when it was due."""
        if not gap_s:
            return time.monotonic()
        self._stop.wait(max(0.0, due_s - time.monotonic()))
        return due_s

    def _send(self, client: Client, request: Request, expected: bytes, due_s: float) -> bool:
        """Send a request until the server lets it in; tell whether its answer was right."""
        while True:
            outcome = client.send(request)
            verdict = judge(outcome, expected)
            now_s = time.monotonic()
            self.samples.append(
                Sample(
                    now_s,
                    outcome.duration_s,
                    now_s - due_s,
                    verdict,
                    request.target,
                    outcome.status,
                )
            )
            if outcome.retry_after_s:
                self._stop.wait(outcome.retry_after_s)
            if verdict is not Verdict.REFUSED or self._stop.wait(RETRY_S):
                return verdict is Verdict.RIGHT


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is so; tell whether it was in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True
