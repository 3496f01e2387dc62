"""Subtitles beside recordings."""

import errno
from collections.abc import Callable, Mapping
from typing import Any

from bulk.errors import UnanswerableError
from bulk.job import Job
from bulk.storage import Location

FORMATS = ("vtt", "srt")


def write_subtitles(job: Job, path: str, transcript: Mapping[str, Any]) -> None:
    """Write the subtitles of a recording beside it, in the format that the job asks for, if any.

    `transcript` is the answer as JSON, times in seconds. Raises `UnanswerableError` where the name
    would be too long.
    """
    if job.subtitles is None:
        return
    recording = job.source.resolve(path)
    # Two recordings may differ in their endings alone.
    beside = Location(recording.files, f"{recording.path}.{job.subtitles}")
    content = _writer(job.subtitles)(_read(transcript)).encode()
    try:
        beside.write(content)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = f"Expected a name with room for .{job.subtitles}: it is too long for subtitles."
        raise UnanswerableError("NameTooLong", message) from error


def _writer(form: str) -> Callable[[Any], str]:
    # From the archive, whose modules can be imported once its handler is loaded.
    from speechtext.speech.subtitles import write_srt, write_vtt

    return {"vtt": write_vtt, "srt": write_srt}[form]


def _read(transcript: Mapping[str, Any]) -> Any:
    from speechtext.speech.transcripts import Transcript, Word

    words = [
        Word(each["word"], each["start"], each["end"], each["confidence"])
        for each in transcript["words"]
    ]
    return Transcript(transcript["text"], transcript["duration"], words)
