"""Waiting for what happens soon, such as a line of a log behind an answer."""

import time
from collections.abc import Callable

TIMEOUT_S = 30.0


def until(holds: Callable[[], bool]) -> None:
    """Return when something is so; fail when it never is."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
