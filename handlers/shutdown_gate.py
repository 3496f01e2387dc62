"""A gate that lets running requests finish before their server is stopped.

Whoever starts a server names a file in the environment variable `SHUTDOWN_GATE`. A worker holds a
shared lock on it while it answers a batch. Whoever stops the server writes into the file, which
closes the gate for the batches that come then, and waits for a lock of its own: when it has that,
nothing runs any more. Where the system has no `flock`, as on Windows, the gate closes all the same,
but nobody can tell when the batches behind it have ended.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

VARIABLE = "SHUTDOWN_GATE"
ASK_EVERY_S = 0.05


@contextmanager
def pass_gate() -> Iterator[bool]:
    """Hold the gate while a batch is answered; tell whether it is open, as it is without a file."""
    path = os.environ.get(VARIABLE)
    if not path or not Path(path).exists():
        yield True
        return
    with Path(path).open("rb") as gate:
        if fcntl:
            fcntl.flock(gate, fcntl.LOCK_SH)
        yield not os.fstat(gate.fileno()).st_size


def close_gate(path: Path, timeout_s: float) -> bool:
    """Close the gate, and tell whether all that ran behind it is known to have ended in time."""
    with path.open("ab") as gate:
        gate.write(b"closed\n")
        gate.flush()
        return _wait_for_lock(gate, timeout_s)


def _wait_for_lock(gate: BinaryIO, timeout_s: float) -> bool:
    if not fcntl:
        return False
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
        time.sleep(ASK_EVERY_S)
