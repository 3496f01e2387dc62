"""Recordings that several workers recognise, each a stretch, and one of them as a whole.

A stretch is a range of the chunks that a long recording is cut into anyway. What is found there,
the emission, goes into a file. Whoever sees that all of them are there decodes them as one, so that
the transcript is that of a worker alone.
"""

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from bulk.archive_runner import ArchiveRunner
from bulk.errors import UnanswerableError
from bulk.files import read_recording
from bulk.job import Job
from bulk.manifests import Group, Manifests
from bulk.outputs import TRANSCRIPTS, Row, describe_error
from bulk.steps import Step, Tally, tally
from bulk.storage import Location
from bulk.subtitles import write_subtitles

NOTHING = np.empty((0, 0), np.float32)


class StretchRecognizer:
    """Recognises recordings in stretches, with the recogniser of an archive."""

    def __init__(self, recognizer: Any, most_s: float) -> None:
        self._recognizer = recognizer
        self._most_s = most_s

    @classmethod
    def of(cls, handler: Any) -> Self | None:
        """Return that of a handler, None where its model goes from start to end.

        So do archives whose library is older than `transcribe_emissions`.
        """
        recognizer = getattr(handler, "recognizer", None)
        if not hasattr(recognizer, "transcribe_emissions"):
            return None
        return cls(recognizer, handler.max_audio_s)

    def recognize(self, audio: bytes, number: int, count: int) -> tuple[np.ndarray, int]:
        """Return the emission of one of `count` stretches, and the samples of the whole.

        An emission has shape (frames, labels). Raises `UnanswerableError`.
        """
        # From the archive, whose modules can be imported once its handler is loaded.
        from speechtext.speech.audio import decode_audio

        with _library_errors():
            waveform = decode_audio(audio, self._recognizer.sample_rate_hz, self._most_s)
            chunks = self._recognizer.count_chunks(len(waveform))
            start, stop = (round(each * chunks / count) for each in (number, number + 1))
            if start == stop:
                # It is shorter than its size told.
                return NOTHING, len(waveform)
            emission = self._recognizer.compute_stretch(waveform, slice(start, stop))
        return emission.numpy(), len(waveform)

    def join(self, emissions: Sequence[np.ndarray], samples: int) -> Row:
        """Return the transcript of a recording, as its answer would have it."""
        import torch

        from speechtext.speech.transcripts import write_json

        emission = torch.from_numpy(np.concatenate([each for each in emissions if len(each)]))
        (transcript,) = self._recognizer.transcribe_emissions([emission], [samples])
        return write_json(transcript)


@contextmanager
def _library_errors() -> Iterator[None]:
    """Raise errors of the library as `UnanswerableError`."""
    from speechtext.errors import RequestError

    try:
        yield
    except RequestError as error:
        raise UnanswerableError(error.kind, error.message) from error


class StretchStep(Step):
    """Recognises a stretch of a long recording, and writes its row where it was the last."""

    def __init__(
        self, job: Job, runner: ArchiveRunner, run: str, recognizer: StretchRecognizer
    ) -> None:
        super().__init__(job, runner, run)
        self._recognizer = recognizer
        self._manifests = Manifests(job.work)

    def do(self, task: Mapping[str, Any]) -> Tally:
        """Write the emission of a stretch, or why there is none."""
        begun_s = time.monotonic()
        group = Group(task["manifest"], task["number"])
        if self.job.part(group.key).exists():
            return Tally()
        (given,) = self._manifests.read(group)
        own = self.job.stretch(group.key, task["stretch"])
        if not own.exists():
            own.write(self._find(given, task["stretch"], own.name))
        files = [self.job.stretch(group.key, each) for each in range(given["stretches"])]
        done = set(self.job.stretches.names())
        rows = self._join(group, given, files) if all(each.name in done for each in files) else []
        return tally(rows, time.monotonic() - begun_s)

    def _find(self, given: Mapping[str, Any], number: int, name: str) -> bytes:
        tries = self.tries(name)
        begun_s = time.monotonic()
        written = io.BytesIO()
        try:
            tries.begin(given["id"])
            audio = read_recording(self.job, given)
            emission, samples = self._recognizer.recognize(audio, number, given["stretches"])
            seconds = time.monotonic() - begun_s
            np.savez(written, emission=emission, samples=samples, seconds=seconds)
        except UnanswerableError as error:
            written.write(json.dumps(describe_error(error.kind, error.message)).encode())
        tries.end()
        return written.getvalue()

    def _join(self, group: Group, given: Mapping[str, Any], files: Sequence[Location]) -> list[Row]:
        """Write the row of a recording, unless another worker has; return what was written."""
        part = self.job.part(group.key)
        try:
            contents = [file.read() for file in files]
        except FileNotFoundError:
            if part.exists():
                return []
            raise
        row = {"id": given["id"], **self._decode(given, contents)}
        written = self.write_part(group.key, [row], TRANSCRIPTS)
        for file in files:
            file.remove()
        return written

    def _decode(self, given: Mapping[str, Any], contents: Sequence[bytes]) -> Row:
        broken: list[Row] = [json.loads(each) for each in contents if each.startswith(b"{")]
        if broken:
            return broken[0]
        found = [np.load(io.BytesIO(each), allow_pickle=False) for each in contents]
        emissions = [each["emission"] for each in found]
        transcript = self._recognizer.join(emissions, int(found[0]["samples"]))
        try:
            write_subtitles(self.job, given["path"], transcript)
        except UnanswerableError as error:
            return describe_error(error.kind, error.message)
        return {**transcript, "seconds": round(sum(float(each["seconds"]) for each in found), 4)}
