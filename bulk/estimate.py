"""How long a job would take: a few of its inputs are answered, and it is reckoned from that."""

import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bulk.archive_runner import ArchiveRunner, unpack_copy
from bulk.inputs import Input
from bulk.job import Job
from bulk.manifests import Manifests
from bulk.steps import Tally
from bulk.storage import open_location
from bulk.worker import STEPS

SAMPLE = 16


@dataclass(frozen=True)
class Estimate:
    """What a job would be: its inputs, and of a few of them what they took one worker."""

    inputs: int
    size: int
    tried: Tally
    tried_size: int

    @property
    def share(self) -> float:
        """Return how much larger the job is than what was tried: by bytes, as those are known."""
        return self.size / max(1, self.tried_size)

    @property
    def audio_s(self) -> float:
        """Return the seconds of audio there would be."""
        return self.tried.audio_s * self.share

    def takes_s(self, workers: int) -> float:
        """Return how long so many workers would take."""
        return self.tried.seconds * self.share / workers


def estimate(job: Job, step: str, inputs: Iterable[Input], schema: pa.Schema) -> Estimate:
    """Return what a job would be; nothing is written but in a folder that goes again."""
    chance, sample = random.Random(0), list[Input]()
    count = size = 0
    for each in inputs:
        count += 1
        size += max(0, each["size"])
        # A reservoir: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
        if len(sample) < SAMPLE:
            sample.append(each)
        elif (place := chance.randrange(count)) < SAMPLE:
            sample[place] = each
    tried = _try(job, step, sample, schema) if sample else Tally()
    return Estimate(count, size, tried, sum(max(0, each["size"]) for each in sample))


def _try(job: Job, step: str, sample: Sequence[Input], schema: pa.Schema) -> Tally:
    with tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        archive = unpack_copy(Path(job.archive), Path(folder))
        output = open_location(f"{folder}/output")
        trial = replace(job, output=output, subtitles=None)
        trial.begin()
        manifests = Manifests(trial.work)
        manifests.add(sample, schema)
        taken: Any = STEPS[step](trial, ArchiveRunner(archive), "trial")
        total = Tally()
        begun_s = time.monotonic()
        for group, _ in manifests.groups():
            total.add(taken.do(vars(group)))
        total.seconds = time.monotonic() - begun_s
        return total
