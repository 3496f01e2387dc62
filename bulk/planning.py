"""What a run finds: inputs that are new, changed, or known, and groups that have no answers yet."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from bulk.errors import JobError
from bulk.inputs import Input
from bulk.job import Job
from bulk.manifests import Group, Manifests
from bulk.outputs import passes, read_rows, write_rows

# Groups, with the stretches of each input.
Pending = Sequence[tuple[Group, list[int]]]


@dataclass
class Found:
    """How many inputs there are; how many of them are new, changed, or failed and tried again.

    `gone` are inputs of earlier runs without an answer that are not there any more.
    """

    inputs: int = 0
    new: int = 0
    changed: int = 0
    again: int = 0
    gone: int = 0


def plan(job: Job, inputs: Iterable[Input], schema: pa.Schema, rows: pa.Schema) -> Found:
    """Write down the inputs that no earlier run knew, or knew otherwise; return what there is.

    The rows of inputs that are answered again are taken out of the output; `rows` is its schema.
    Inputs that are gone before they were answered are no longer written down. Raises `JobError` for
    two inputs of one id.
    """
    manifests = Manifests(job.work)
    known, failed = manifests.known(), _find_failed(job)
    found = Found()
    redone: dict[str, Input] = {}

    def new() -> Iterator[Input]:
        for each in _each_once(inputs):
            found.inputs += 1
            name = each["id"]
            before = known.pop(name, None)
            if before is None:
                found.new += 1
                yield each
            elif before != (each["size"], each["mark"]):
                found.changed += 1
                redone[name] = each
            elif name in failed:
                found.again += 1
                redone[name] = each

    manifests.add(new(), schema)
    gone = _find_pending(job, known.keys())
    found.gone = len(gone)
    if redone or gone:
        forget(job, redone.keys() | gone, rows)
        manifests.add(redone.values(), schema)
    # What is not to be found now may be there for the next run.
    left = {key for name, key in failed.items() if name not in redone}
    for key in set(job.failed.names()) - left:
        (job.failed / key).remove()
    return found


def pending_groups(job: Job) -> Pending:
    """Return the groups without a file in the output, with the stretches of each input.

    None of those whose inputs are all in others now, or gone.
    """
    done = set(job.output.names())
    groups = Manifests(job.work).groups()
    return [each for each in groups if each[1] and job.part(each[0].key).name not in done]


def _find_pending(job: Job, names: Set[str]) -> set[str]:
    """Return those of some inputs that have no row yet."""
    manifests = Manifests(job.work)
    groups = [group for group, _ in pending_groups(job)] if names else []
    return {each["id"] for group in groups for each in manifests.read(group)} & names


def _each_once(inputs: Iterable[Input]) -> Iterator[Input]:
    seen: set[str] = set()
    for each in inputs:
        name = each["id"]
        if name in seen:
            raise JobError(f"Expected an id for each input, got {name!r} twice.")
        seen.add(name)
        yield each


def _find_failed(job: Job) -> dict[str, str]:
    """Return the inputs with an error that may be none now, and the keys of their groups."""
    manifests, failed = Manifests(job.work), dict[str, str]()
    for key in job.failed.names():
        file = job.part(key)
        if not file.exists():
            continue
        rows = read_rows(file)
        failed.update({row["id"]: key for row in rows if passes(row)})
        # A run that was to try them again ended once it had taken out their rows.
        written = {row["id"] for row in rows}
        inputs = manifests.read(Group.of(key))
        failed.update({each["id"]: key for each in inputs if each["id"] not in written})
    return failed


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
