"""The file of a recording, as a worker reads it."""

from collections.abc import Mapping
from typing import Any

from pyarrow import ArrowInvalid

from bulk.errors import UnanswerableError
from bulk.job import Job

MOST_BYTES = 1 << 30


def read_recording(job: Job, given: Mapping[str, Any]) -> bytes:
    """Return the file of a recording, as it was when the job began.

    Raises `UnanswerableError`.
    """
    location = job.source.resolve(given["path"])
    try:
        info = location.info()
        if not info.is_file:
            raise UnanswerableError("FileNotFound", "Expected a file at this path, found none.")
        if info.size > MOST_BYTES:
            message = f"Expected at most {MOST_BYTES} bytes, got {info.size}."
            raise UnanswerableError("FileTooLarge", message)
        if (info.size, info.mtime_ns or 0) != (given["size"], given["mark"]):
            message = "The file was changed after the job began; run it again."
            raise UnanswerableError("FileChanged", message)
        return location.read()
    except (ArrowInvalid, OSError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnanswerableError("FileUnreadable", f"Expected a file to read: {reason}.") from error
