"""The time that a batch may take: work is measured before it is begun, and stopped when it is over.

An adapter whose server ends a worker that takes too long answers each batch within `allow`.
Whatever begins something costly asks `admit` first, and `check_time` while it goes on; where no
batch has an allowance, both let everything pass.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from speechtext.devices import CPU
from speechtext.errors import DeadlineError, RequestError, RequestTooLargeError, UnavailableError

Answer = TypeVar("Answer")

# What requests may ask for of a server's timeout: the machine may be twice as slow as when it was
# measured. And when what goes on all the same is given up.
PLANNED_SHARE, LAST_SHARE = 0.5, 0.9


class Work(NamedTuple):
    """An amount of work that a request asks for, its unit, and the seconds that it takes."""

    amount: int
    unit: str
    cost_s: float


@dataclass
class Allowance:
    """The seconds that requests of a batch may take alone, those left, and when all must end."""

    most_s: float
    left_s: float
    deadline_s: float


_allowance: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allow(timeout_s: float) -> Iterator[None]:
    """Answer a batch of a server that ends a worker after `timeout_s`."""
    most_s = plan_seconds(timeout_s)
    allowance = Allowance(most_s, most_s, time.monotonic() + LAST_SHARE * timeout_s)
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


@contextmanager
def allow_share(share: float) -> Iterator[None]:
    """Let something take so much of the time that its batch has left; the rest is the others'."""
    allowance = _allowance.get()
    if allowance is None:
        yield
        return
    deadline_s, now_s = allowance.deadline_s, time.monotonic()
    allowance.deadline_s = now_s + share * (deadline_s - now_s)
    try:
        yield
    finally:
        allowance.deadline_s = deadline_s


def plan_seconds(timeout_s: float) -> float:
    """Return the seconds of work that a request may ask for of such a server."""
    return PLANNED_SHARE * timeout_s


def admit(works: Sequence[Work]) -> list[RequestError | None]:
    """Return why a request of a batch is refused, before its work is begun, None for the others.

    One that takes too long alone is too large. Of those that take too long together, the costliest
    are to come again.
    """
    allowance = _allowance.get()
    if allowance is None:
        return [None] * len(works)
    refusals: list[RequestError | None] = [_refuse(each, allowance.most_s) for each in works]
    for index in sorted(range(len(works)), key=lambda index: works[index].cost_s):
        if refusals[index] is None and not spend(works[index].cost_s):
            refusals[index] = _busy(allowance)
    return refusals


def spend(cost_s: float) -> bool:
    """Take seconds from what the batch has left; tell whether it had them."""
    allowance = _allowance.get()
    if allowance is None:
        return True
    affordable = cost_s <= allowance.left_s
    if affordable:
        allowance.left_s -= cost_s
    return affordable


def reserve(cost_s: float) -> None:
    """Take the seconds of work that was admitted before, as it goes on beside the batch's own."""
    allowance = _allowance.get()
    if allowance is not None:
        allowance.left_s -= cost_s


def check_time() -> None:
    """Raise `DeadlineError` where the batch has taken too long."""
    allowance = _allowance.get()
    if allowance is not None and time.monotonic() > allowance.deadline_s:
        raise took_too_long(allowance.most_s)


def find_deadline_s() -> float:
    """Return when the batch must have ended, by `time.monotonic`; infinity without an allowance."""
    allowance = _allowance.get()
    return math.inf if allowance is None else allowance.deadline_s


def took_too_long(most_s: float) -> DeadlineError:
    """Return the error of requests that took longer than there was time for."""
    return DeadlineError(
        "TookTooLong",
        "Expected requests that this worker answers in time; those that came together took "
        "longer. Send a smaller one, or try again.",
        retry_after_s=math.ceil(most_s),
    )


def run_admitted(
    run: Callable[[Sequence[Any]], Sequence[Any]], requests: Sequence[Any], works: Sequence[Work]
) -> list[Any]:
    """Return an answer or the refusal of each request; `run` answers those that are admitted.

    Where `run` fails, what it was admitted for is the batch's again: its halves are run next.
    """
    with _given_back_if_failed():
        refusals = admit(works)
        pairs = zip(requests, refusals, strict=True)
        admitted = [each for each, refusal in pairs if refusal is None]
        answers = iter(run(admitted) if admitted else ())
        return [next(answers) if refusal is None else refusal for refusal in refusals]


@contextmanager
def _given_back_if_failed() -> Iterator[None]:
    """Give back what is spent of the seconds that were planned; the clock stops for nobody."""
    allowance = _allowance.get()
    left_s = allowance.left_s if allowance else 0.0
    try:
        yield
    except Exception:
        if allowance:
            allowance.left_s = left_s
        raise


def run_timed(run: Callable[[], Answer], device: torch.device = CPU) -> tuple[float, Answer]:
    """Return the seconds that something takes on a device, and what it gives.

    On a processor it is the time that this thread works, which does its part of all that several
    threads do: what else the machine does while a worker loads is not counted. A GPU loads and
    chooses kernels the first time, which is not counted either.
    """
    if device.type != "cpu":
        run()
    clock_s = time.thread_time if device.type == "cpu" else time.perf_counter
    started_s = clock_s()
    answer = run()
    return clock_s() - started_s, answer


def _refuse(work: Work, most_s: float) -> RequestError | None:
    if work.cost_s <= most_s:
        return None
    most = int(work.amount * most_s / work.cost_s)
    return RequestTooLargeError(
        "TooMuchWork",
        f"Expected at most {most} {work.unit}, which take this worker {most_s:g} s, got "
        f"{work.amount}.",
    )


def _busy(allowance: Allowance) -> RequestError:
    return UnavailableError(
        "WorkerBusy",
        "Expected time left in this batch; its other requests need all of it. Try again.",
        retry_after_s=max(1, math.ceil(allowance.most_s - allowance.left_s)),
    )
