"""What was under way when a worker died, so that one input cannot end a job by dying again."""

import json
from typing import Any

from bulk.errors import UnanswerableError
from bulk.storage import Place

# An input with which so many workers died while it was alone gets an error.
MOST_DEATHS = 2


class Tries:
    """The tries of a group in one run of a job, in a file that outlives the worker."""

    def __init__(self, folder: Place, run: str, key: str) -> None:
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
