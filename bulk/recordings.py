"""Recordings in bulk."""

import json
from collections.abc import Mapping
from typing import Any

from bulk.archive_runner import ArchiveRunner
from bulk.files import read_recording
from bulk.inputs import COMPRESSED_BYTES_PER_S
from bulk.job import Job
from bulk.long_recordings import StretchRecognizer, StretchStep
from bulk.outputs import TRANSCRIPTS, Row
from bulk.steps import GroupStep, Input, Tally
from bulk.subtitles import write_subtitles
from cluster.measures import measure_audio
from cluster.requests import JSON, WorkerRequest
from gateway.engine import Kind

HEADERS = (("Content-Type", "application/octet-stream"), ("Accept", JSON), ("explain", "False"))


class RecordingStep(GroupStep):
    """Recognises the recordings of a group, or a stretch of a long one."""

    schema = TRANSCRIPTS
    kinds = frozenset({Kind.SPEECH_RECOGNITION})

    def __init__(self, job: Job, runner: ArchiveRunner, run: str) -> None:
        super().__init__(job, runner, run)
        recognizer = StretchRecognizer.of(runner.handler)
        self._stretches = StretchStep(job, runner, run, recognizer) if recognizer else None

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Recognise a group or a stretch."""
        if "stretch" not in task:
            return super().do(task)
        if self._stretches:
            return self._stretches.do(task)
        # A model that goes from start to end takes the whole for its first stretch.
        return Tally() if task["stretch"] else super().do(task)

    def read(self, given: Input) -> WorkerRequest:
        """Return the request of a recording."""
        return WorkerRequest(HEADERS, read_recording(self.job, given))

    def work(self, request: WorkerRequest) -> float:
        """Return its seconds of audio, as its container says, or else as its bytes allow."""
        return measure_audio(request) or len(request.body) / COMPRESSED_BYTES_PER_S

    def write(self, given: Input, content: bytes) -> Row:
        """Return the transcript, once its subtitles are written where they are asked for."""
        transcript = json.loads(content)
        write_subtitles(self.job, given["path"], transcript)
        return dict(transcript)
