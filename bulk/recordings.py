"""Recordings in bulk."""

import json
from collections.abc import Mapping
from typing import Any

from bulk.archive_runner import ArchiveRunner
from bulk.files import read_recording
from bulk.job import Job
from bulk.long_recordings import Cutter
from bulk.manifests import Group
from bulk.outputs import TRANSCRIPTS, Row
from bulk.steps import GroupStep, Input, Tally
from bulk.subtitles import write_subtitles
from cluster.measures import measure_audio
from cluster.requests import JSON, WorkerRequest

HEADERS = (("Content-Type", "application/octet-stream"), ("Accept", JSON), ("explain", "False"))


class RecordingStep(GroupStep):
    """Recognises the recordings of a group; those to be cut are left to other steps."""

    schema = TRANSCRIPTS
    speech = True

    def __init__(self, job: Job, runner: ArchiveRunner, run: str) -> None:
        super().__init__(job, runner, run)
        self._cutter = Cutter.of(runner.handler, job.cut_s)
        self._long: list[dict[str, Any]] = []

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Recognise a group."""
        self._long = []
        return super().do(task)

    def read(self, given: Input) -> WorkerRequest | None:
        """Return the request of a recording, None of one that is cut."""
        request = WorkerRequest(HEADERS, read_recording(self.job, given))
        cut = self._cutter and self._cutter.cut(request)
        if cut:
            self._long.append({**given, **cut})
        return None if cut else request

    def work(self, request: WorkerRequest) -> float:
        """Return its seconds of audio, as its container says."""
        return measure_audio(request)

    def write(self, given: Input, content: bytes) -> Row:
        """Return the transcript, once its subtitles are written where they are asked for."""
        transcript = json.loads(content)
        write_subtitles(self.job, given["path"], transcript)
        return dict(transcript)

    def before_written(self, group: Group) -> None:
        """Write down which recordings are to be cut."""
        if self._long:
            (self.job.long / f"{group.key}.json").write(json.dumps(self._long).encode())
