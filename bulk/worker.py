"""A worker of a job: an archive, loaded once, and the steps that it takes."""

import json
import traceback
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import ray

from bulk.archive_runner import ArchiveRunner, unpack_copy
from bulk.errors import JobError
from bulk.job import Job, digest_archive
from bulk.recordings import RecordingStep
from bulk.steps import Step
from bulk.texts import TextStep
from bulk.tries import loading
from cluster.archives import ArchiveError
from cluster.workspaces import Workspace

STEPS: Mapping[str, type[Step]] = {
    "recordings": RecordingStep,
    "texts": TextStep,
}
# Errors whose message says it all.
SAID = (ArchiveError, JobError, OSError)


class BulkWorker:
    """Takes one of `STEPS` with one task after the other; Ray Data makes as many as are needed.

    A failure is an answer, too: what Ray makes of exceptions is long, and has no sentence.
    """

    def __init__(self, job: Job, step: str, run: str, workers: int) -> None:
        self._workspace = Workspace()
        self._failure = ""
        try:
            with loading(job.work / "tries", run, workers):
                self._step = STEPS[step](job, self._load(job), run)
        except Exception as error:
            self._failure = describe_failure(error)

    def _load(self, job: Job) -> ArchiveRunner:
        archive = unpack_copy(Path(job.archive), self._workspace.path)
        digest = digest_archive(archive)
        if digest != job.answers.digest:
            raise JobError(f"{job.archive}: this node has another archive, {digest[:12]}.")
        # Ray shows a worker the GPUs that are its own.
        return ArchiveRunner(archive, 0 if ray.get_gpu_ids() else None)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        """Take the step with a task, which is JSON; return its tally as JSON, or a failure."""
        (task,) = batch["task"]
        if not self._failure:
            try:
                tally = self._step.do(json.loads(task))
                return {"tally": [json.dumps(vars(tally))], "failure": [""]}
            except Exception as error:
                return {"tally": [""], "failure": [describe_failure(error)]}
        return {"tally": [""], "failure": [self._failure]}


def describe_failure(error: Exception) -> str:
    """Return why a worker cannot go on: a sentence, or where a mistake of this code is."""
    # `LoadError` is of the archive's own modules.
    if isinstance(error, SAID) or type(error).__name__ == "LoadError":
        return str(error).strip()
    return "".join(traceback.format_exception(error))
