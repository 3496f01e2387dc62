"""What the sections share: the device, how much is asked of it, and how a result reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from speechtext.devices import free_memory

Amount = TypeVar("Amount")


@dataclass(frozen=True)
class Plan:
    """On which device to check, and how much: all of it on a GPU, a little on a CPU.

    `recordings` is a folder of WAV files that are compared beside the examples.
    """

    device: torch.device
    recordings: Path | None = None

    @property
    def gpu_id(self) -> int | None:
        """Return the number by which TorchServe gives a worker the device."""
        return None if self.device.type == "cpu" else self.device.index or 0

    def amount(self, full: Amount, small: Amount) -> Amount:
        """Return how much of something to do."""
        return small if self.device.type == "cpu" else full

    @property
    def server_keys(self) -> dict[str, str]:
        """Return the keys of config.properties that keep TorchServe on the device."""
        return {} if self.gpu_id is not None else {"number_of_gpu": "0"}

    def judge(self, held: bool) -> bool | None:
        """Return whether a bar is held, None on a CPU, which has no bar of speed."""
        return None if self.gpu_id is None else held

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give back the memory of models that nobody has any more, and count its peak anew."""
        free_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mb(self) -> float | None:
        """Return the most memory of the device that this process ever had since then."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device) / 1e6


@dataclass(frozen=True)
class Result:
    """What was found, beside what is demanded of it; `held` is None where nothing is."""

    what: str
    found: str
    bar: str = ""
    held: bool | None = None

    def row(self, section: str) -> tuple[str, ...]:
        """Return the row of the table."""
        verdict = {None: "", True: "yes", False: "NO"}[self.held]
        return section, self.what, self.found, self.bar, verdict


def describe(error: BaseException) -> str:
    """Return an error in one line of a table."""
    said: Any = str(error).splitlines()
    return f"{type(error).__name__}: {said[0] if said else ''}".replace("|", "/")


def ignore(_message: str) -> None:
    """Say nothing of servers that start: the table is what is printed."""
