"""Transcribe thousands of recordings in bulk: beside bare processes, and killed again and again.

The job is done undisturbed, then with kills at random moments: of the command, of a worker, of all
processes. The outputs are compared row by row. Two processes that only recognise the same
recordings say what the job's files, its restarts and Ray cost.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

from bulk.archive_runner import ArchiveRunner, unpack_copy
from bulk.recordings import HEADERS
from cluster.requests import WorkerRequest
from repository import ROOT
from trials.bulk_runs import finish, kill_one, read_output, same_row, start, write_recordings

BATCH = 32
KILLS = ("command", "worker", "everything")
# How long a job is left alone behind the group at which it is killed.
ALONE_S = (0.0, 1.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; return 0 where the outputs are the same."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="bulk-trial-") as name:
        folder = Path(name)
        source = folder / "recordings"
        write_recordings(source, options.recordings, long_s=[1500.0])
        print(f"{options.recordings:,} recordings and one of 25 minutes", flush=True)
        compare_speed(source, folder / "whole", options)
        kills = run_with_kills(source, folder / "killed", options)
        return report(folder, kills)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m trials.bulk", description=__doc__)
    parser.add_argument("--recordings", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="undisturbed, beside bare processes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--archive", default=str(ROOT / "model_store" / "wav2vec2.mar"))
    return parser.parse_args(arguments)


def compare_speed(source: Path, output: Path, options: argparse.Namespace) -> None:
    """Recognise in bare processes and do the job undisturbed, in turn; tell the rates of both."""
    rates = []
    for _ in range(options.rounds):
        shutil.rmtree(output, ignore_errors=True)
        bare_s = recognise_bare(source, options.archive, options.workers)
        begun_s = time.monotonic()
        status = finish(start("transcribe", source, output, *_words(options)))
        whole_s = time.monotonic() - begun_s
        summary = json.loads((output / "_job" / "summary.json").read_text())
        rates.append(bare_s / summary["working_seconds"])
        print(f"exit {status}, {json.dumps(summary)}")
        print(f"bare processes {bare_s:.1f} s, the job {whole_s:.1f} s with Ray's start and end")
        print(f"rate of the job over that of bare processes: {rates[-1]:.2f}", flush=True)
    print(f"median of {len(rates)}: {median(rates):.2f}", flush=True)


def _words(options: argparse.Namespace) -> list[str]:
    return ["--workers", str(options.workers), "--archive", options.archive]


def recognise_bare(source: Path, archive: str, count: int) -> float:
    """Return how long processes take that recognise and keep nothing, once they are loaded.

    It is the mean of all, as if their shares were even.
    """
    files = sorted(map(str, source.rglob("*.wav")), key=lambda path: Path(path).stat().st_size)
    context = get_context("spawn")
    ready, spent = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_recognise, args=(archive, files[each::count], ready, spent))
        for each in range(count)
    ]
    for process in processes:
        process.start()
    seconds = [spent.get() for _ in processes]
    for process in processes:
        process.join()
    return float(mean(seconds))


def _recognise(archive: str, files: Sequence[str], ready: Any, spent: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runner = ArchiveRunner(unpack_copy(Path(archive), Path(folder)))
        ready.wait()
        begun_s = time.monotonic()
        for first in range(0, len(files), BATCH):
            contents = [Path(path).read_bytes() for path in files[first : first + BATCH]]
            runner.answer([WorkerRequest(HEADERS, content) for content in contents])
        spent.put(time.monotonic() - begun_s)


def run_with_kills(source: Path, output: Path, options: argparse.Namespace) -> Counter[str]:
    """Do the job with kills, then to its end; return how many kills there were of each kind."""
    chance, kills = random.Random(options.seed), Counter[str]()
    words = _words(options)
    most = _count_groups(output.with_name("whole")) // max(1, options.kills)
    process = start("transcribe", source, output, *words)
    while kills.total() < options.kills and not (output / "_job" / "summary.json").exists():
        _wait(process, output, _count_groups(output) + chance.randint(0, most), chance)
        what = chance.choice(KILLS)
        if process.poll() is None and kill_one(process, what, chance):
            kills[what] += 1
            print(f"killed {what}: {_count_groups(output)} groups done", flush=True)
        if what != "worker":
            process.wait()
            process = start("transcribe", source, output, *words)
    print(f"exit {finish(process)}")
    return kills


def _wait(
    process: "subprocess.Popen[bytes]", output: Path, groups: int, chance: random.Random
) -> None:
    """Return some moment after so many groups are done, or when the job has ended."""
    while process.poll() is None and _count_groups(output) < groups:
        time.sleep(0.05)
    time.sleep(chance.uniform(*ALONE_S))


def _count_groups(output: Path) -> int:
    return len(list(output.glob("part-*")))


def report(folder: Path, kills: Counter[str]) -> int:
    """Tell how the outputs compare; return 0 where they are the same."""
    whole, killed = read_output(folder / "whole"), read_output(folder / "killed")
    twice = len(killed) - len({row["id"] for row in killed})
    lost = {row["id"] for row in whole} - {row["id"] for row in killed}
    pairs = zip(whole, killed, strict=len(whole) == len(killed))
    other = [ours["id"] for ours, theirs in pairs if not same_row(ours, theirs)]
    print(
        f"{kills.total()} kills ({dict(kills)}): {len(whole):,} rows undisturbed, {len(killed):,}"
    )
    print(f"{len(lost)} lost, {twice} twice, {len(other)} other than undisturbed")
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if not (lost or twice or other) and len(whole) == len(killed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
