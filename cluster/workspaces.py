"""Folders of unpacked archives, which go when their processes do, however those end."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from pathlib import Path

PREFIX, LOCK = "archive-", ".lock"
# A younger one may not be locked yet.
LEAST_AGE_S = 60.0


class Workspace:
    """A folder for an archive. Ray kills processes: what they leave, the next workspace removes."""

    def __init__(self) -> None:
        remove_abandoned()
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self.path = Path(self._folder.name)
        self._lock = (self.path / LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()
        self._lock.close()


def remove_abandoned() -> None:
    """Remove the workspaces of processes that have ended."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        # Somebody works there, another process removes it, or it is somebody else's.
        with contextlib.suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - lock.stat().st_mtime > LEAST_AGE_S:
                shutil.rmtree(lock.parent)
