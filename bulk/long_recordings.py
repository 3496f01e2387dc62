"""Recordings that are cut, so that several workers recognise one, and joined again.

A worker recognises a stretch: a range of the chunks that a long recording is cut into anyway. What
it finds, the emission, goes into a file; another worker decodes all of them as one, so that the
transcript is that of a worker alone.
"""

import io
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from bulk.archive_runner import ArchiveRunner
from bulk.errors import UnanswerableError
from bulk.files import read_recording
from bulk.job import Job
from bulk.outputs import TRANSCRIPTS, Row, describe_error, write_rows
from bulk.steps import Step, Tally, tally
from bulk.storage import Place
from bulk.subtitles import write_subtitles
from cluster.measures import measure_audio
from cluster.requests import WorkerRequest

# What a container says of its length may be a little off.
CLOSE = 0.9


class Cutter:
    """Recognises recordings in stretches, with the recogniser of an archive."""

    def __init__(self, recognizer: Any, most_s: float, cut_s: float) -> None:
        self._recognizer = recognizer
        self._most_s = most_s
        self._cut_s = cut_s

    @classmethod
    def of(cls, handler: Any, cut_s: float) -> Self | None:
        """Return that of a handler, None where its model goes from start to end."""
        recognizer = getattr(handler, "recognizer", None)
        if not hasattr(recognizer, "compute_stretch"):
            return None
        return cls(recognizer, handler.max_audio_s, cut_s)

    def cut(self, request: WorkerRequest) -> dict[str, Any] | None:
        """Return the samples and the stretches of a recording to be cut, None of another.

        Stretches are ranges of chunks.
        """
        if 0 < measure_audio(request) < CLOSE * self._cut_s:
            return None
        try:
            samples = len(self._decode(request.body))
        except UnanswerableError:
            # Its request will say so.
            return None
        count = math.ceil(samples / self._recognizer.sample_rate_hz / self._cut_s)
        if count == 1:
            return None
        chunks = self._recognizer.count_chunks(samples)
        bounds = sorted({round(each * chunks / count) for each in range(count + 1)})
        return {"samples": samples, "stretches": list(itertools.pairwise(bounds))}

    def recognize(self, audio: bytes, chunks: tuple[int, int]) -> np.ndarray:
        """Return the emission of a stretch of a recording; raises `UnanswerableError`."""
        waveform = self._decode(audio)
        with _library_errors():
            found: np.ndarray = self._recognizer.compute_stretch(waveform, slice(*chunks)).numpy()
        return found

    def join(self, emissions: Sequence[np.ndarray], samples: int) -> Row:
        """Return the transcript of a recording, as its answer would have it."""
        import torch

        from speechtext.speech.transcripts import write_json

        emission = torch.from_numpy(np.concatenate(emissions))
        with torch.inference_mode():
            return write_json(self._recognizer.transcribe_emission(emission, samples))

    def _decode(self, audio: bytes) -> Any:
        # Of the archive, whose modules are there once its handler is loaded.
        from speechtext.speech.audio import decode_audio

        with _library_errors():
            return decode_audio(audio, self._recognizer.sample_rate_hz, self._most_s)


@contextmanager
def _library_errors() -> Iterator[None]:
    """Raise errors of the library as `UnanswerableError`."""
    from speechtext.errors import RequestError

    try:
        yield
    except RequestError as error:
        raise UnanswerableError(error.kind, error.message) from error


class LongStep(Step):
    """A step of a long recording."""

    def __init__(self, job: Job, runner: ArchiveRunner, run: str) -> None:
        super().__init__(job, runner, run)
        cutter = Cutter.of(runner.handler, job.cut_s)
        assert cutter is not None  # noqa: S101 - it has cut this recording
        self.cutter = cutter

    def file(self, task: Mapping[str, Any], number: int) -> Place:
        """Return the file with the emission of a stretch."""
        return self.job.stretches / f"{task['key']}-{number}"


class StretchStep(LongStep):
    """Recognises a stretch of a long recording."""

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Write the emission of a stretch, or why there is none."""
        begun_s = time.monotonic()
        file = self.file(task, task["number"])
        tries = self.tries(file.name)
        try:
            tries.begin(task["id"])
            emission = self.cutter.recognize(read_recording(self.job, task), task["chunks"])
            written = io.BytesIO()
            seconds = time.monotonic() - begun_s
            np.savez(written, emission=emission, seconds=seconds)
            file.write(written.getvalue())
        except UnanswerableError as error:
            file.write(json.dumps(describe_error(error.kind, error.message)).encode())
        tries.end()
        return Tally(seconds=time.monotonic() - begun_s)


class JoinStep(LongStep):
    """Decodes the emissions of a long recording as one, into a row of the output."""

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Write the row of a long recording."""
        begun_s = time.monotonic()
        contents = [self.file(task, each).read() for each in range(len(task["stretches"]))]
        broken = [json.loads(each) for each in contents if each.startswith(b"{")]
        row = broken[0] if broken else self._join(task, contents)
        stamped = self.stamp({"id": task["id"], **row})
        write_rows(self.job.part(task["key"]), [stamped], TRANSCRIPTS)
        return tally([stamped], time.monotonic() - begun_s)

    def _join(self, task: Mapping[str, Any], contents: Sequence[bytes]) -> Row:
        found = [np.load(io.BytesIO(each), allow_pickle=False) for each in contents]
        transcript = self.cutter.join([each["emission"] for each in found], task["samples"])
        write_subtitles(self.job, task["path"], transcript)
        return {**transcript, "seconds": round(sum(float(each["seconds"]) for each in found), 4)}
