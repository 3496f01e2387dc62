"""A job on Ray Data: what is still to do goes to workers, and their tallies come back."""

import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from bulk.errors import JobError
from bulk.job import Job
from bulk.manifests import Group
from bulk.planning import Pending
from bulk.ray_session import list_needs
from bulk.steps import Tally
from bulk.worker import BulkWorker

# Blocks of tasks: the driver holds a reference to each.
MOST_BLOCKS = 10_000

Task = Mapping[str, Any]
Hear = Callable[[Tally], None]


@dataclass(frozen=True)
class Workers:
    """How many workers there are at least and at most, and what each takes of a node."""

    least: int
    most: int
    options: Mapping[str, Any] = field(default_factory=dict)


def run_job(job: Job, step: str, pending: Pending, workers: Workers, hear: Hear) -> None:
    """Answer what has no answer yet; `hear` is told of each task that is done."""
    _sweep(job)
    done = set(job.stretches.names())
    tasks = [task for group, stretches in pending for task in cut(job, group, stretches, done)]
    _run_tasks(job, step, tasks, workers, hear)


def fit_workers(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many workers Ray's nodes have room for, at least one: the least and the most."""
    # Ray has no types for it.
    ask: Any = ray.cluster_resources
    there = ask()
    room = [there.get(name, 0) // need for name, need in list_needs(options).items()]
    most = max(1, int(min(room, default=1)))
    return most, most


def cut(job: Job, group: Group, stretches: Sequence[int], done: set[str]) -> Iterator[Task]:
    """Yield the tasks of a group: one, or one for each stretch of a long recording.

    Those whose files are `done` are left out, but for the last: who takes it puts them together.
    """
    whole = {"manifest": group.manifest, "number": group.number}
    count = max(stretches)
    if count == 1:
        yield whole
        return
    left = [each for each in range(count) if job.stretch(group.key, each).name not in done]
    yield from ({**whole, "stretch": each} for each in left or [count - 1])


def _sweep(job: Job) -> None:
    """Remove what earlier runs left that were killed."""
    for name in (job.work / "tries").names():
        (job.work / "tries" / name).remove()
    for folder in (job.output, job.work, job.stretches, job.failed, job.work / "tries"):
        folder.remove_unfinished()


def _run_tasks(job: Job, step: str, tasks: Sequence[Task], workers: Workers, hear: Hear) -> None:
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
        fn_constructor_args=(job, step, uuid.uuid4().hex[:8], workers.most),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=min(workers.least, len(blocks)),
            max_size=workers.most,
            # One to do and one to follow: what waits at a worker no other can take.
            max_tasks_in_flight_per_actor=2,
        ),
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
