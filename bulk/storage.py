"""Folders and files on this machine, or in object stores such as `s3://` and `gs://`."""

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import ArrowInvalid, NativeFile
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from bulk.errors import JobError

# What no reader of a folder looks at, and among that a file that has not all of its content. Short,
# so that each name that is allowed can be written.
HIDDEN = "."
UNFINISHED = f"{HIDDEN}unfinished-"
WriteTo = Callable[[str, FileSystem], None]
# Is told why a file is left out: of its ending, or of what its name is.
Skip = Callable[[str], None]


@dataclass(frozen=True)
class Location:
    """A file or folder: its file system, and its path within that."""

    files: FileSystem
    path: str

    def __truediv__(self, name: str) -> "Location":
        return Location(self.files, f"{self.path.rstrip('/')}/{name}")

    def resolve(self, named: str) -> "Location":
        """Return what a path of this file system, or an address of any, names."""
        return open_location(named) if "://" in named else Location(self.files, named)

    @property
    def name(self) -> str:
        """Return the last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def info(self) -> FileInfo:
        """Return what it is, its size and its time; of what is not there, too."""
        return self.files.get_file_info(self.path)

    def exists(self) -> bool:
        """Tell whether there is something."""
        return bool(self.info().type != FileType.NotFound)

    def make(self) -> None:
        """Make a folder of it, unless it is one."""
        self.files.create_dir(self.path, recursive=True)

    def names(self) -> list[str]:
        """Return the names of the finished files in a folder, sorted; none where there is none."""
        found = self.files.get_file_info(FileSelector(self.path, allow_not_found=True))
        named = _named(found, lambda _: None)
        names = [each.base_name for each in named if each.type == FileType.File]
        return sorted(name for name in names if not name.startswith(HIDDEN))

    def walk(self, skip: Skip, without: "Location | None" = None) -> Iterator[Sequence[FileInfo]]:
        """Yield the files of a folder and of those within it, a folder at a time.

        Not those of the folder `without`. `skip` is told of names that are not in UTF-8, and of
        links to a folder that they are in.
        """
        folders: list[tuple[Location, tuple[str, ...]]] = [(self, (self._real_path,))]
        while folders:
            folder, above = folders.pop()
            found = _named(self.files.get_file_info(FileSelector(folder.path)), skip)
            shown = [each for each in found if not each.base_name.startswith((HIDDEN, "_"))]
            for each in (Location(self.files, each.path) for each in shown if _is_folder(each)):
                if each._real_path in above:
                    skip("linked to a folder above")
                elif each != without:
                    folders.append((each, (*above, each._real_path)))
            yield [each for each in shown if each.type == FileType.File]

    @property
    def _real_path(self) -> str:
        """Return its path without links, which object stores have none of."""
        is_local = isinstance(self.files, LocalFileSystem)
        return os.path.realpath(self.path) if is_local else self.path

    def open(self) -> NativeFile:
        """Return a file, open for reading."""
        return self.files.open_input_file(self.path)

    def read(self) -> bytes:
        """Return the content of a file."""
        with self.open() as stream:
            return bytes(stream.read())

    def write(self, content: bytes, durable: bool = True) -> None:
        """Write a file; it is there with all of its content, or not at all.

        One that is `durable` is there when the machine has lost its power, too.
        """

        def write(path: str, files: FileSystem) -> None:
            with files.open_output_stream(path) as stream:
                stream.write(content)

        self.write_by(write, durable)

    def write_by(self, write: WriteTo, durable: bool = True) -> None:
        """Let `write` write a file; it is there with all of its content, or not at all.

        Object stores show an object once it is whole.
        """
        if not isinstance(self.files, LocalFileSystem):
            write(self.path, self.files)
            return
        final = Path(self.path)
        unfinished = final.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
        try:
            write(str(unfinished), self.files)
            if durable:
                with unfinished.open("rb") as written:
                    os.fsync(written.fileno())
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove a file, if there is one."""
        with suppress(FileNotFoundError):
            if self.exists():
                self.files.delete_file(self.path)

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold a file as the only one who does, if that can be; yield whether it can.

        The lock goes with the process, however that ends. Where a file system has no locks, as
        object stores have none, everybody holds it.
        """
        if not isinstance(self.files, LocalFileSystem):
            yield True
            return
        with Path(self.path).open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except OSError as error:
                held = error.errno != errno.EWOULDBLOCK
            yield held

    def remove_unfinished(self) -> None:
        """Remove what writers that were killed left in a folder."""
        if isinstance(self.files, LocalFileSystem) and Path(self.path).is_dir():
            for each in Path(self.path).glob(f"{UNFINISHED}*"):
                each.unlink(missing_ok=True)


def open_location(named: str) -> Location:
    """Return a file or folder by its path on this machine or its address.

    Raises `JobError` for an address of no known kind.
    """
    if "://" not in named:
        return Location(LocalFileSystem(), str(Path(named).expanduser().resolve()))
    # What follows a # is a part of the name.
    parts = urlsplit(named, allow_fragments=False)
    try:
        files = _open_files(f"{parts.scheme}://{parts.netloc}/?{parts.query}".rstrip("?"))
        return Location(files, f"{parts.netloc}{parts.path}".rstrip("/"))
    except (ArrowInvalid, OSError) as error:
        message = f"Expected a path or an address such as s3://bucket/folder: {error}"
        raise JobError(message) from error


def _is_folder(info: FileInfo) -> bool:
    return bool(info.type == FileType.Directory)


def _named(found: Iterable[FileInfo], skip: Skip) -> Iterator[FileInfo]:
    """Yield those whose names can be read; this machine's file systems may have others."""
    for each in found:
        try:
            _ = each.path
        except UnicodeDecodeError:
            skip("not named in UTF-8")
        else:
            yield each


@cache
def _open_files(address: str) -> FileSystem:
    """Return the one file system of a bucket: each has connections of its own."""
    files, _ = FileSystem.from_uri(address)
    return files
