"""A job on Ray Data: what is still to do goes to workers, and their tallies come back."""

import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.exceptions import RayError

from bulk.errors import JobError
from bulk.job import Job
from bulk.manifests import Manifests
from bulk.steps import Tally
from bulk.worker import BulkWorker

# Blocks of tasks: the driver holds a reference to each.
MOST_BLOCKS = 10_000
# Of long recordings that are under way, so that their emissions do not fill a disk.
LONG_FOR_EACH_WORKER = 8

Task = Mapping[str, Any]
Hear = Callable[[Tally], None]


@dataclass(frozen=True)
class Workers:
    """How many workers there are at least and at most, and what each takes of a node."""

    least: int
    most: int
    options: Mapping[str, Any] = field(default_factory=dict)


def run_job(job: Job, step: str, workers: Workers, hear: Hear) -> None:
    """Answer what has no answer yet; `hear` is told of each task that is done."""
    run = uuid.uuid4().hex[:8]
    _sweep(job)
    _run_tasks(job, step, run, [group for group, _ in pending_groups(job)], workers, hear)
    long = pending_long(job)
    while some := list(islice(long, LONG_FOR_EACH_WORKER * workers.most)):
        _run_tasks(job, "stretches", run, list(_cut_tasks(job, some)), workers, hear)
        _run_tasks(job, "joins", run, some, workers, hear)
        for file in job.stretches.names():
            (job.stretches / file).remove()


def fit_workers(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many workers Ray's nodes have room for, at least one: the least and the most."""
    # Ray has no types for it.
    ask: Any = ray.cluster_resources
    there = ask()
    needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
    room = [there.get(name, 0) // need for name, need in needs.items() if need]
    most = max(1, int(min(room, default=1)))
    return most, most


def count_pending(job: Job) -> int:
    """Return how many inputs have no answer yet."""
    waiting = sum(count for _, count in pending_groups(job))
    return waiting + sum(1 for _ in pending_long(job))


def pending_groups(job: Job) -> list[tuple[Task, int]]:
    """Return the groups without a file in the output, and how many inputs each has."""
    done = set(job.output.names())
    return [
        (vars(group), count)
        for group, count in Manifests(job.work).groups()
        if job.part(group.key).name not in done
    ]


def pending_long(job: Job) -> Iterator[dict[str, Any]]:
    """Yield the long recordings that are not in the output."""
    done = set(job.output.names())
    for name in job.long.names():
        for number, given in enumerate(json.loads((job.long / name).read())):
            key = f"{name.removesuffix('.json')}-{number:02}"
            if given and job.part(key).name not in done:
                yield {**given, "key": key}


def _cut_tasks(job: Job, long: Sequence[Task]) -> Iterator[Task]:
    """Yield the stretches that were not recognised before."""
    done = set(job.stretches.names())
    for given in long:
        for number, chunks in enumerate(given["stretches"]):
            if f"{given['key']}-{number}" not in done:
                yield {**given, "number": number, "chunks": chunks}


def _sweep(job: Job) -> None:
    """Remove what earlier runs left that were killed."""
    for name in (job.work / "tries").names():
        (job.work / "tries" / name).remove()
    for folder in (job.output, job.work, job.long, job.stretches, job.work / "tries"):
        folder.remove_unfinished()


def _run_tasks(
    job: Job, step: str, run: str, tasks: Sequence[Task], workers: Workers, hear: Hear
) -> None:
    if not tasks:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    lines = [json.dumps(task) for task in tasks]
    size = -(-len(lines) // MOST_BLOCKS)
    blocks = [
        pa.table({"task": lines[start : start + size]}) for start in range(0, len(lines), size)
    ]
    answered = ray.data.from_arrow(blocks).map_batches(
        BulkWorker,
        fn_constructor_args=(job, step, run),
        batch_size=1,
        concurrency=(min(workers.least, len(blocks)), workers.most),
        **workers.options,
    )
    try:
        for row in answered.iter_rows():
            if row["failure"]:
                raise JobError(row["failure"])
            hear(_read_tally(row["tally"]))
    except RayError as error:
        raise JobError(f"Ray: {error}") from error


def _read_tally(line: str) -> Tally:
    told = json.loads(line)
    return Tally(**{**told, "errors": Counter(told["errors"])})
