"""What a worker does for a job: it answers a group of inputs, and writes their rows."""

import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bulk.archive_runner import ArchiveRunner
from bulk.errors import JobError, UnanswerableError
from bulk.job import Job
from bulk.manifests import Group, Manifests
from bulk.outputs import Row, describe_error, passes, write_rows
from bulk.tries import Tries
from cluster.requests import WorkerAnswer, WorkerRequest
from gateway.engine import Kind

# Audio decoded at a time, at most.
BATCH_AUDIO_S = 600.0

Input = Mapping[str, Any]


@dataclass
class Tally:
    """What a step did: rows written, errors among them by their kinds, audio, the time it took."""

    rows: int = 0
    audio_s: float = 0.0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add what another step did."""
        self.rows += other.rows
        self.audio_s += other.audio_s
        self.seconds += other.seconds
        self.errors.update(other.errors)


class Step(ABC):
    """What a worker does with a task, which is what JSON can say."""

    def __init__(self, job: Job, runner: ArchiveRunner, run: str) -> None:
        self.job = job
        self.runner = runner
        self._tries = job.work / "tries"
        self._run = run

    @abstractmethod
    def do(self, task: Mapping[str, Any]) -> Tally:
        """Do a task; doing it again changes nothing."""

    def tries(self, key: str) -> Tries:
        """Return the tries of a task in this run."""
        return Tries(self._tries, self._run, key)

    def write_part(self, key: str, rows: Iterable[Row], schema: pa.Schema) -> list[Row]:
        """Write the rows of a group with what they were made by, and return them."""
        answers = self.job.answers
        made_by = {"model": answers.model, "model_digest": answers.digest}
        stamped = [{"error": None, **row, **made_by} for row in rows]
        if any(map(passes, stamped)):
            (self.job.failed / key).write(b"")
        write_rows(self.job.part(key), stamped, schema)
        return stamped


class GroupStep(Step):
    """Answers the inputs of a group, and writes them as one file of the output."""

    schema: pa.Schema
    # Those that models of it have.
    kinds: frozenset[Kind]

    def __init__(self, job: Job, runner: ArchiveRunner, run: str) -> None:
        super().__init__(job, runner, run)
        if runner.kind not in self.kinds:
            expected = " or ".join(sorted(self.kinds))
            raise JobError(f"{job.archive}: expected a model of {expected}, got {runner.kind}.")
        self._manifests = Manifests(job.work)

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Answer a group; inputs alone once a worker died with it."""
        begun_s = time.monotonic()
        group = Group(task["manifest"], task["number"])
        inputs = self._manifests.read(group)
        tries = self.tries(group.key)
        rows = self._answer_alone(inputs, tries) if tries.again else self._answer(inputs)
        written = self.write_part(group.key, rows, self.schema)
        tries.end()
        return tally(written, time.monotonic() - begun_s)

    @abstractmethod
    def read(self, given: Input) -> WorkerRequest:
        """Return the request of an input; raises `UnanswerableError`."""

    @abstractmethod
    def write(self, given: Input, content: bytes) -> Row:
        """Return what a row says of an answer; raises `UnanswerableError`."""

    def work(self, request: WorkerRequest) -> float:
        """Return what share of a batch a request is, of `BATCH_AUDIO_S`."""
        return 0.0

    def _answer_alone(self, inputs: Iterable[Input], tries: Tries) -> Iterator[Row]:
        for given in inputs:
            try:
                tries.begin(given["id"])
            except UnanswerableError as error:
                yield {"id": given["id"], **describe_error(error.kind, error.message)}
            else:
                yield from self._answer([given])

    def _answer(self, inputs: Iterable[Input]) -> Iterator[Row]:
        batch: list[tuple[Input, WorkerRequest]] = []
        size = 0.0
        for given in inputs:
            try:
                request = self.read(given)
            except UnanswerableError as error:
                yield {"id": given["id"], **describe_error(error.kind, error.message)}
                continue
            own = self.work(request)
            if batch and size + own > BATCH_AUDIO_S:
                yield from self._run_batch(batch)
                batch, size = [], 0.0
            batch.append((given, request))
            size += own
        yield from self._run_batch(batch)

    def _run_batch(self, batch: Sequence[tuple[Input, WorkerRequest]]) -> Iterator[Row]:
        if not batch:
            return
        begun_s = time.monotonic()
        answers = self.runner.answer([request for _, request in batch])
        seconds = round((time.monotonic() - begun_s) / len(batch), 4)
        for (given, _), answer in zip(batch, answers, strict=True):
            yield {"id": given["id"], "seconds": seconds, **self._read_answer(given, answer)}

    def _read_answer(self, given: Input, answer: WorkerAnswer) -> Row:
        try:
            return read_error(answer) or self.write(given, answer.body)
        except UnanswerableError as error:
            return describe_error(error.kind, error.message)


def read_error(answer: WorkerAnswer) -> Row | None:
    """Return what a row says of an answer that is an error, None of others."""
    if answer.refusal:
        return describe_error("PredictionFailed", answer.refusal)
    if answer.status < 400:
        return None
    content = json.loads(answer.body)
    return describe_error(content["type"], content["message"])


def tally(rows: Sequence[Row], seconds: float) -> Tally:
    """Return what a step did that wrote these rows."""
    audio_s = sum(row.get("duration") or 0.0 for row in rows)
    errors = Counter(row["error"]["kind"] for row in rows if row.get("error"))
    return Tally(len(rows), audio_s, seconds, errors)
