"""What a run finds: inputs that are new, changed, or known from an earlier run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from bulk.errors import JobError
from bulk.inputs import Input
from bulk.job import Job
from bulk.manifests import Group, Manifests
from bulk.outputs import read_rows, write_rows


@dataclass
class Found:
    """How many inputs there are, and of those how many are new and changed."""

    inputs: int = 0
    new: int = 0
    changed: int = 0


def plan(job: Job, inputs: Iterable[Input], schema: pa.Schema, rows: pa.Schema) -> Found:
    """Write down the inputs that no earlier run knew, or knew otherwise; return what there is.

    The rows of changed inputs are taken out of the output; `rows` is its schema. Raises `JobError`
    for two inputs of one id.
    """
    manifests = Manifests(job.work)
    known = manifests.known()
    found = Found()
    changed: list[Input] = []

    def new() -> Iterator[Input]:
        seen: set[str] = set()
        for each in inputs:
            found.inputs += 1
            name = each["id"]
            if name in seen:
                raise JobError(f"Expected an id for each input, got {name!r} twice.")
            seen.add(name)
            before = known.get(name)
            if before is None:
                found.new += 1
                yield each
            elif before != (each["size"], each["mark"]):
                changed.append(each)

    manifests.add(new(), schema)
    if changed:
        found.changed = len(changed)
        forget(job, {each["id"] for each in changed}, rows)
        manifests.add(changed, schema)
    return found


def forget(job: Job, names: set[str], schema: pa.Schema) -> None:
    """Take inputs out of the output, then out of the manifests."""
    for group in Manifests(job.work).remove(names):
        _forget_rows(job, group, names, schema)


def _forget_rows(job: Job, group: Group, names: set[str], schema: pa.Schema) -> None:
    """Write the file of a group without some inputs."""
    for name in job.stretches.names():
        if name.startswith(f"{group.key}-"):
            (job.stretches / name).remove()
    file = job.part(group.key)
    if file.exists():
        write_rows(file, [row for row in read_rows(file) if row["id"] not in names], schema)
