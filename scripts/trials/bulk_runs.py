"""Jobs as a user starts them, killed at will, and recordings to give them."""

import random
import subprocess
import sys
import wave
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bulk.outputs import read_rows
from bulk.storage import Location, open_location
from repository import ROOT

RATE_HZ = 16_000
# The name of an actor of Ray Data.
WORKER = "ray::MapWorker"
# In which two runs may differ: the time it took.
CHANGING = "seconds"


def write_recordings(folder: Path, count: int, seed: int = 1, long_s: Sequence[float] = ()) -> None:
    """Write recordings of the demo world with a little noise, each its own, and damaged ones.

    One in a hundred is none at all; `long_s` are the lengths of some further ones.
    """
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    spoken = [
        _read(path) for path in sorted((ROOT / "examples").glob("*.wav")) if "hz" not in path.name
    ]
    for number in range(count):
        path = folder / f"{number % 16:02}" / f"{number:05}.wav"
        path.parent.mkdir(exist_ok=True)
        if number % 100 == 50:
            path.write_bytes(chance.bytes(1000))
        else:
            parts = [
                spoken[each] for each in chance.integers(len(spoken), size=chance.integers(1, 4))
            ]
            _write(path, np.concatenate(parts), chance)
    for number, seconds in enumerate(long_s):
        whole = np.concatenate(spoken)
        times = int(seconds * RATE_HZ / len(whole)) + 1
        _write(folder / f"long-{number}.wav", np.tile(whole, times), chance)


def _read(path: Path) -> np.ndarray:
    with wave.open(str(path)) as recording:
        return np.frombuffer(recording.readframes(recording.getnframes()), np.int16)


def _write(path: Path, samples: np.ndarray, chance: np.random.Generator) -> None:
    noisy = samples + chance.normal(0, 5, len(samples))
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(RATE_HZ)
        recording.writeframes(noisy.clip(-32768, 32767).astype("<i2").tobytes())


def start(
    command: str, source: Path | str, output: Path | str, *options: str, log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a job; what it prints is added to a file, by default one beside its output."""
    words = [sys.executable, "-m", "bulk", command, "--in", str(source), "--out", str(output)]
    with (log or Path(f"{output}.log")).open("ab") as said:
        return subprocess.Popen(  # noqa: S603 - our own command
            [*words, *options], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )


def finish(process: "subprocess.Popen[bytes]", timeout_s: float = 3600) -> int:
    """Wait for a job; return its exit status."""
    return process.wait(timeout_s)


def kill_one(process: "subprocess.Popen[bytes]", what: str, chance: random.Random) -> bool:
    """Kill the command, one of its workers, or all its processes; tell whether it was there."""
    with suppress(psutil.Error):
        command = psutil.Process(process.pid)
        children = command.children(recursive=True)
        workers = [each for each in children if _name(each).startswith(WORKER)]
        killed = {
            "command": [command],
            "worker": [chance.choice(workers)] if workers else [],
            "everything": [command, *children],
        }[what]
        for each in killed:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return bool(killed)
    return False


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return ""


def read_output(output: Path | Location) -> list[dict[str, Any]]:
    """Return the rows of a job's output, by their ids."""
    location = output if isinstance(output, Location) else open_location(str(output))
    rows = [row for name in location.names() for row in read_rows(location / name)]
    return sorted(rows, key=lambda row: str(row["id"]))


def same_row(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rows say the same; confidences may differ where batches do."""
    ours, theirs = (
        {k: v for k, v in row.items() if k not in (CHANGING, "words")} for row in (one, other)
    )
    if ours != theirs:
        return False
    pairs = zip(one.get("words") or [], other.get("words") or [], strict=True)
    return all(
        (a["word"], a["start"], a["end"]) == (b["word"], b["start"], b["end"])
        and abs(a["confidence"] - b["confidence"]) < 1e-3
        for a, b in pairs
    )
