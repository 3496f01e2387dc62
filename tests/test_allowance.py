"""The time that a batch may take: shared out before work is begun, and over at its deadline."""

import contextlib
import math
import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechtext.allowance import (
    PLANNED_SHARE,
    Work,
    admit,
    allow,
    allow_share,
    check_time,
    find_deadline_s,
    plan_seconds,
    reserve,
    run_admitted,
    run_timed,
    spend,
    took_too_long,
)
from speechtext.errors import (
    DeadlineError,
    ImpossibleRequestError,
    OutOfMemoryError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from speechtext.failures import run_isolated

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


@pytest.mark.parametrize("error", [ImpossibleRequestError("Kind", "Expected less."), MemoryError()])
def test_time_of_a_run_that_fails_is_for_its_halves(error: Exception) -> None:
    seen: list[str] = []

    def run(requests: Sequence[str]) -> Sequence[str]:
        seen.append("".join(requests))
        if "c" in requests:
            raise error
        return [word.upper() for word in requests]

    def answer(requests: Sequence[str]) -> Sequence[str]:
        return run_admitted(run, requests, works([4.0] * len(requests)))

    with allow(20):
        # Only one of the three has room beside another; which one that is, is known at once.
        assert spend(1)
        found = run_isolated(answer, "acb")
        # What was answered is spent, and what failed is not.
        assert spend(1)
        assert not spend(0.1)
    assert (found[0], found[2]) == ("A", "B")
    assert type(found[1]) is (type(error) if isinstance(error, RequestError) else OutOfMemoryError)
    assert seen == ["ac", "a", "c", "c", "b"]


def test_share_is_of_the_time_that_is_left() -> None:
    with allow_share(0.5):
        assert find_deadline_s() == math.inf
    with allow(100):
        whole_s = find_deadline_s()
        for _ in range(2):
            with pytest.raises(KeyError), allow_share(0.5):
                assert 44 < find_deadline_s() - time.monotonic() <= 45
                raise KeyError
        assert find_deadline_s() == whole_s
        assert spend(50)
    with allow(0.0):
        time.sleep(0.001)
        # There is nothing left to be shared.
        with allow_share(0.5), pytest.raises(DeadlineError):
            check_time()


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


@pytest.mark.parametrize(
    ("cost_s", "refused"),
    [(4.9, False), (5.0, False), (5.1, True)],
)
def test_request_may_take_half_of_the_timeout_alone(cost_s: float, refused: bool) -> None:
    assert plan_seconds(10) == 5
    with allow(10):
        (refusal,) = admit([Work(7, "samples", cost_s)])
    assert (refusal is not None) == refused


def test_costliest_are_to_come_again_and_are_told_when() -> None:
    with allow(20):
        refusals = admit(works([6, 2.5, 8, 3]))
    assert [refusal is None for refusal in refusals] == [False, True, False, True]
    for refusal in (refusals[0], refusals[2]):
        assert isinstance(refusal, UnavailableError)
        assert refusal.kind == "WorkerBusy"
        assert refusal.message == (
            "Expected time left in this batch; its other requests need all of it. Try again."
        )
        # The others take 5.5 s.
        assert refusal.retry_after_s == 6


def test_nobody_comes_again_at_once() -> None:
    with allow(2):
        assert spend(0.2)
        (refusal,) = admit(works([0.9]))
    assert isinstance(refusal, UnavailableError)
    assert refusal.retry_after_s == 1


def test_refusal_of_too_much_work_is_a_sentence() -> None:
    with allow(5):
        (refusal,) = admit([Work(1_001, "tokens", 10.0)])
    assert isinstance(refusal, RequestTooLargeError)
    assert refusal.message == (
        "Expected at most 250 tokens, which take this worker 2.5 s, got 1001."
    )


def test_what_goes_on_beside_a_batch_is_taken_from_it() -> None:
    reserve(1e9)
    with allow(100):
        reserve(30)
        assert not spend(20.5)
        reserve(-10)
        assert spend(20.5)
        reserve(100)
        assert not spend(0.1)
    assert spend(1e9)


def test_batch_ends_before_its_server_ends_the_worker() -> None:
    assert find_deadline_s() == math.inf
    before_s = time.monotonic()
    with allow(100):
        deadline_s = find_deadline_s()
    assert 90 <= deadline_s - before_s < 90.5
    assert find_deadline_s() == math.inf


def test_inner_batch_leaves_the_outer_one_its_time() -> None:
    with allow(100):
        outer_s = find_deadline_s()
        with contextlib.suppress(KeyError), allow(10):
            assert find_deadline_s() < outer_s
            assert not spend(6)
            raise KeyError
        assert find_deadline_s() == outer_s
        assert spend(50)


def test_error_of_a_deadline_says_when_to_come_again() -> None:
    with allow(0.0), pytest.raises(DeadlineError) as raised:
        time.sleep(0.001)
        check_time()
    assert raised.value.retry_after_s == 0
    error = took_too_long(59.2)
    assert isinstance(error, DeadlineError)
    assert (error.kind, error.retry_after_s) == ("TookTooLong", 60)
    assert error.message == (
        "Expected requests that this worker answers in time; those that came together took "
        "longer. Send a smaller one, or try again."
    )


def test_deadline_error_has_the_time_of_its_batch() -> None:
    with allow(0.02), pytest.raises(DeadlineError) as raised:
        check_time()
        time.sleep(0.03)
        check_time()
    assert raised.value.retry_after_s == 1


def test_requests_that_are_all_refused_are_not_run() -> None:
    def run(requests: Sequence[str]) -> Sequence[str]:
        raise AssertionError(f"{len(requests)} requests were run")

    with allow(2):
        found = run_admitted(run, "ab", works([5, 6]))
    assert [type(each) for each in found] == [RequestTooLargeError] * 2
    assert run_admitted(run, "", []) == []


def test_requests_and_works_are_as_many() -> None:
    with pytest.raises(ValueError, match="longer"):
        run_admitted(list, "ab", works([1, 2, 3]))


def test_seconds_are_those_of_the_work_alone() -> None:
    """On a processor what a thread waits is no work; on a GPU it is waited for."""
    waited_s, _ = run_timed(lambda: time.sleep(0.05))
    assert 0 <= waited_s < 0.04

    runs: list[float] = []

    def work() -> int:
        runs.append(1)
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass
        return len(runs)

    seconds, count = run_timed(work)
    assert 0.05 <= seconds < 0.08
    # A processor has nothing to load.
    assert count == 1
    runs.clear()

    def load() -> int:
        time.sleep(0.02 if runs else 0.5)
        runs.append(1)
        return len(runs)

    # The first run, which loads, is not counted.
    seconds, count = run_timed(load, torch.device("cuda"))
    assert 0.02 <= seconds < 0.4
    assert count == 2
