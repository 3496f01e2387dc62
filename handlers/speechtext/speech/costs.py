"""What recognising a recording costs, measured when a recogniser is loaded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from speechtext.allowance import Work, run_timed

PROBE_S = 10.0
LOUDNESS = 0.05


@dataclass(frozen=True)
class SpeechCost:
    """The seconds that a recording of `PROBE_S` takes; longer ones take that much more.

    `power` is 1 where the time grows with the length and 2 where it grows with its square.
    """

    probe_cost_s: float
    power: int = 1

    def measure(self, duration_s: float) -> Work:
        """Return the work of recognising a recording."""
        cost_s = self.probe_cost_s * (duration_s / PROBE_S) ** self.power
        return Work(math.ceil(duration_s), "s of audio in body", cost_s)

    def longest_s(self, seconds: float) -> float:
        """Return the longest recording that is recognised in so many seconds."""
        return float(PROBE_S * (seconds / self.probe_cost_s) ** (1 / self.power))


def try_recognizer(
    recognize: Callable[[Sequence[torch.Tensor]], Any],
    sample_rate_hz: int,
    device: torch.device,
    power: int = 1,
) -> SpeechCost:
    """Recognise a recording of noise; return what this worker takes."""
    chance = torch.Generator().manual_seed(0)
    noise = LOUDNESS * torch.randn(int(PROBE_S * sample_rate_hz), generator=chance)
    seconds, _ = run_timed(lambda: recognize([noise]), device)
    return SpeechCost(seconds, power)
