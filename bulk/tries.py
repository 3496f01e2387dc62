"""What was under way when a worker died, so that no input and no archive kills them for ever."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bulk.errors import JobError, UnanswerableError
from bulk.storage import Location

# An input with which so many workers died while it was alone gets an error.
MOST_DEATHS = 2
# So many workers may die in a row while they load the archive.
MOST_LOAD_DEATHS = 3


@contextmanager
def loading(folder: Location, run: str, workers: int) -> Iterator[None]:
    """Note that one of so many workers loads the archive while the block runs.

    Raises `JobError` where too many died in it since the last one was loaded: Ray would start
    further ones for ever.
    """
    begun = [each for each in folder.names() if each.startswith(f"{run}-loading-")]
    # All others may be loading it now.
    if len(begun) >= workers - 1 + MOST_LOAD_DEATHS:
        raise JobError(
            f"Expected workers to load the archive; {MOST_LOAD_DEATHS} in a row died while they "
            "loaded it. A library may be faulty, or there is memory for fewer workers only."
        )
    own = f"{run}-loading-{uuid.uuid4().hex}"
    (folder / own).write(b"", durable=False)
    yield
    for name in [*begun, own]:
        (folder / name).remove()


class Tries:
    """The tries of a group in one run of a job, in a file that outlives the worker."""

    def __init__(self, folder: Location, run: str, key: str) -> None:
        self._file = folder / f"{run}-{key}.json"
        self._known: dict[str, Any] = {"tries": 0, "deaths": {}, "alone": None}
        if self._file.exists():
            self._known = json.loads(self._file.read())
            if alone := self._known["alone"]:
                deaths = self._known["deaths"]
                deaths[alone] = deaths.get(alone, 0) + 1
        self._known |= {"tries": self._known["tries"] + 1, "alone": None}
        self._write()

    @property
    def again(self) -> bool:
        """Tell whether a worker died with this group: then its inputs are answered one by one."""
        return bool(self._known["tries"] > 1)

    def begin(self, name: str) -> None:
        """Note that an input is answered alone; raises `UnanswerableError` where it must not be."""
        if self._known["deaths"].get(name, 0) >= MOST_DEATHS:
            message = "Workers died with this input, each time that it was answered alone."
            raise UnanswerableError("WorkerDied", message)
        self._known["alone"] = name
        self._write()

    def end(self) -> None:
        """Forget the group: its answers are written."""
        self._file.remove()

    def _write(self) -> None:
        self._file.write(json.dumps(self._known).encode(), durable=False)
