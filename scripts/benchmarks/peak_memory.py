"""The peak of resident memory, as Linux counts it."""

import gc
import math
from pathlib import Path

from speechtext.host_memory import trim_freed

PROCESS = Path("/proc/self")


def reset_peak_mb() -> float:
    """Let Linux count the peak of resident memory anew; return what is resident now.

    What was freed goes back to Linux first, where the C library knows how. Not a number elsewhere.
    """
    gc.collect()
    trim_freed()
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Return the peak of resident memory; not a number where it cannot be counted anew."""
    if not PROCESS.exists():
        return math.nan
    status = (PROCESS / "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000
