"""The time that a batch may take: shared out before work is begun, and over at its deadline."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechtext.allowance import (
    PLANNED_SHARE,
    Work,
    admit,
    allow,
    check_time,
    run_admitted,
    spend,
)
from speechtext.batching import run_isolated
from speechtext.errors import DeadlineError, RequestTooLargeError, UnavailableError

COSTS = st.lists(st.floats(0, 200), max_size=12)


def works(costs_s: list[float]) -> list[Work]:
    return [Work(int(cost_s * 10), "tokens", cost_s) for cost_s in costs_s]


@given(COSTS, st.floats(0.5, 300))
def test_batch_shares_its_time(costs_s: list[float], timeout_s: float) -> None:
    most_s = PLANNED_SHARE * timeout_s
    with allow(timeout_s):
        refusals = admit(works(costs_s))
    for cost_s, refusal in zip(costs_s, refusals, strict=True):
        assert (cost_s > most_s) == isinstance(refusal, RequestTooLargeError)
    admitted = [c for c, refusal in zip(costs_s, refusals, strict=True) if refusal is None]
    waiting = [
        c for c, each in zip(costs_s, refusals, strict=True) if type(each) is UnavailableError
    ]
    assert sum(admitted) <= most_s * (1 + 1e-9)
    # Who has to wait would not have fitted beside those that are admitted.
    assert all(sum(admitted) + cost_s > most_s * (1 - 1e-9) for cost_s in waiting)


def test_refusal_says_what_would_fit() -> None:
    with allow(120):
        refused, waiting, admitted = admit([Work(500, "steps", 240.0), *works([40, 30])])
    assert isinstance(refused, RequestTooLargeError)
    assert refused.kind == "TooMuchWork"
    assert "at most 125 steps" in refused.message
    assert "60 s, got 500" in refused.message
    assert isinstance(waiting, UnavailableError)
    assert (waiting.kind, waiting.retry_after_s) == ("WorkerBusy", 30)
    assert admitted is None


def test_what_is_spent_is_gone() -> None:
    with allow(100):
        assert spend(30)
        assert not spend(30)
        assert admit(works([25, 15]))[0] is not None
        assert spend(5)
    assert spend(1e9)


def test_library_has_no_allowance() -> None:
    assert admit(works([1e9, 1e9])) == [None, None]
    check_time()


def test_those_admitted_keep_their_places() -> None:
    with allow(20):
        found = run_admitted(
            lambda each: [word.upper() for word in each], "abcd", works([1, 99, 2, 9])
        )
    assert (found[0], found[2]) == ("A", "C")
    assert [type(found[1]), type(found[3])] == [RequestTooLargeError, UnavailableError]


def test_all_of_a_batch_end_at_its_deadline() -> None:
    runs: list[Sequence[int]] = []

    def run(requests: Sequence[int]) -> Sequence[int]:
        runs.append(requests)
        time.sleep(0.02)
        check_time()
        return requests

    with allow(0.01):
        found = run_isolated(run, [1, 2, 3])
    assert [type(each) for each in found] == [DeadlineError] * 3
    # Halves of it are not tried: there is no time for them.
    assert runs == [[1, 2, 3]]


def test_allowance_ends_with_its_batch() -> None:
    with pytest.raises(ZeroDivisionError), allow(0.0):
        _ = 1 / 0
    check_time()
