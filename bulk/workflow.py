"""A job from its command line to its summary."""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bulk.archive_runner import unpack_copy
from bulk.inputs import RECORDING, TEXT, Input, find_recordings, find_texts
from bulk.job import Answers, Job, digest_archive
from bulk.outputs import ANNOTATIONS, TRANSCRIPTS
from bulk.planning import Found, pending_groups, plan
from bulk.progress import Progress, write_time
from bulk.ray_session import ray_session
from bulk.storage import Skip, open_location
from cluster.archives import ArchiveError
from cluster.serve_config import deployment_options


@dataclass(frozen=True)
class Kind:
    """A kind of job: its step, its inputs and its rows."""

    step: str
    inputs: pa.Schema
    rows: pa.Schema
    find: Callable[[Job, Skip], Iterable[Input]]
    model: str


KINDS = {
    "transcribe": Kind(
        "recordings",
        RECORDING,
        TRANSCRIPTS,
        lambda job, skip: find_recordings(job.source, job.cut_s, skip, job.output),
        "wav2vec2",
    ),
    "annotate": Kind(
        "texts",
        TEXT,
        ANNOTATIONS,
        lambda job, skip: find_texts(job.source, job.answers.columns, skip, job.output),
        "bert_seq_classification",
    ),
}


def run(options: argparse.Namespace, kind: Kind) -> None:
    """Do a job, or say what it would be; raises `JobError` or `ArchiveError`."""
    job, resources = open_job(options)
    left_out: Counter[str] = Counter()

    def skip(why: str) -> None:
        left_out[why] += 1

    inputs = kind.find(job, skip)
    if options.dry_run:
        print_estimate(job, kind, inputs, options.workers)
    else:
        with job.alone():
            run_and_report(job, kind, inputs, options.workers, resources)
    if left_out:
        reasons = ", ".join(f"{count:,} {why}" for why, count in left_out.most_common(5))
        print(f"Left out: {reasons}")


def open_job(options: argparse.Namespace) -> tuple[Job, dict[str, Any]]:
    """Return the job of a command line, and what a worker takes of a node."""
    path = Path(options.archive).absolute()
    if not path.exists():
        raise ArchiveError(f"{path}: expected an archive; make archive builds them.")
    with tempfile.TemporaryDirectory(prefix="archive-") as folder:
        archive = unpack_copy(path, Path(folder))
        digest = digest_archive(archive)
    given = vars(options)
    answers = Answers(
        archive.name,
        archive.version,
        digest,
        options.format,
        given.get("explain", False),
        given.get("parameters", {}),
        given.get("columns", {}),
    )
    job = Job(
        open_location(options.source),
        open_location(options.output),
        str(path),
        answers,
        given.get("subtitles"),
        60 * given.get("cut_minutes", 0),
    )
    return job, deployment_options(archive.name, archive.keys)["ray_actor_options"]


def print_estimate(
    job: Job, kind: Kind, inputs: Iterable[Input], workers: tuple[int, int] | None
) -> None:
    """Say what a job would be, and for how long."""
    from bulk.estimate import estimate

    found = estimate(job, kind.step, inputs, kind.inputs)
    print(f"{found.inputs:,} inputs, {found.size / 1e6:,.1f} MB")
    if found.audio_s:
        print(f"about {found.audio_s / 3600:,.2f} hours of audio")
    for count in sorted({1, *(workers or (2, 16))}):
        took = write_time(found.takes_s(count))
        print(f"about {took} with {count} workers like this machine's, {found.tried.rows} tried")


def tell_found(found: Found) -> str:
    """Return the line about the inputs of a run."""
    again = f", {found.again:,} that failed" if found.again else ""
    gone = f"; {found.gone:,} without an answer are gone" if found.gone else ""
    return f"{found.inputs:,} inputs: {found.new:,} new, {found.changed:,} changed{again}{gone}"


def run_and_report(
    job: Job,
    kind: Kind,
    inputs: Iterable[Input],
    wanted: tuple[int, int] | None,
    resources: dict[str, Any],
) -> None:
    """Answer what has no answer, and write a summary."""
    job.begin()
    found = plan(job, inputs, kind.inputs, kind.rows)
    print(tell_found(found))
    with ray_session(resources) as stream:
        # Imports Ray, too.
        from bulk.ray_tasks import Workers, fit_workers, run_job

        pending = pending_groups(job)
        waiting = sum(len(stretches) for _, stretches in pending)
        progress = Progress(found.inputs, found.inputs - waiting, stream)
        if pending:
            least, most = wanted or fit_workers(resources)
            run_job(job, kind.step, pending, Workers(least, most, resources), progress.hear)
        summary = progress.finish()
    (job.work / "summary.json").write(json.dumps(summary, indent=1).encode())
    print(json.dumps(summary, indent=1))
