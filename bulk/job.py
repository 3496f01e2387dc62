"""What a job is: what it reads, what it writes, which archive answers, and how."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bulk.errors import JobError
from bulk.storage import Location
from cluster.archives import MANIFEST, Archive

# Beside the output; names that begin so are no part of it to those who read it as a table.
WORK = "_job"


@dataclass(frozen=True)
class Answers:
    """What decides about the answers of a job: with another, its output would be another.

    `digest` is that of the archive's content; `columns` are those of a table with texts, by the
    fields of a request.
    """

    model: str
    version: str
    digest: str
    form: str
    explain: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job: its input and output, the archive by its path on each node, and what it answers.

    Long recordings are cut into stretches of about `cut_s`. `subtitles` has a format of the
    library's.
    """

    source: Location
    output: Location
    archive: str
    answers: Answers
    subtitles: str | None = None
    cut_s: float = float("inf")

    @property
    def work(self) -> Location:
        """Return the folder of what the job knows of itself."""
        return self.output / WORK

    @property
    def stretches(self) -> Location:
        """Return the folder with what was found in their stretches."""
        return self.work / "stretches"

    def stretch(self, key: str, number: int) -> Location:
        """Return the file of what was found in a stretch of the recording of a group."""
        return self.stretches / f"{key}-{number}"

    @property
    def failed(self) -> Location:
        """Return the folder that names groups with errors that may be none in the next run."""
        return self.work / "failed"

    def part(self, key: str) -> Location:
        """Return the file of the output that a group's answers are in."""
        return self.output / f"part-{key}.{self.answers.form}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do this job in one run at a time; raises `JobError` where another run is under way."""
        self.work.make()
        with (self.work / "lock").lock() as held:
            if not held:
                raise JobError(f"{self.output.path}: another run of this job is under way.")
            yield

    def begin(self) -> None:
        """Write down what this job answers, unless an earlier run did.

        Raises `JobError` where that one's answers were others.
        """
        file = self.work / "job.json"
        # As it is read back.
        decided = {**asdict(self.answers), "subtitles": self.subtitles}
        own = json.loads(json.dumps(decided))
        for folder in (self.work, self.work / "tries", self.stretches, self.failed):
            folder.make()
        if not file.exists():
            file.write(json.dumps(own, indent=1).encode())
            return
        other = json.loads(file.read())
        # Jobs of earlier versions did not write down all of it.
        changed = [name for name in own if own[name] != other.get(name, own[name])]
        if changed:
            name = changed[0]
            raise JobError(
                f"{self.output.path} has answers of another job, whose {name} is "
                f"{other.get(name)!r}, not {own[name]!r}: choose another folder for the output."
            )


def digest_archive(archive: Archive) -> str:
    """Return the SHA-256 of what an archive holds, whatever its format and when it was built."""
    digest = hashlib.sha256()
    for path in sorted(filter(Path.is_file, archive.folder.rglob("*"))):
        name = path.relative_to(archive.folder)
        content = _without_time(path) if name == MANIFEST else None
        digest.update(f"{name.as_posix()} {content or _digest_file(path)}\n".encode())
    return digest.hexdigest()


def _without_time(path: Path) -> str:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest.pop("createdOn", None)
    return json.dumps(manifest, sort_keys=True)


def _digest_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
