"""Archives as TorchServe loads them: unpacked, and read."""

import json
import lzma
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = (".mar", ".tar.gz")
MANIFEST = Path("MAR-INF", "MANIFEST.json")
# What Python raises where an archive is cut short, damaged or encrypted.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class ArchiveError(Exception):
    """Why an archive cannot be served, in one sentence."""


@dataclass(frozen=True)
class BatchLimits:
    """The most requests of a batch, how long it waits for more, and the most work in it.

    A request that is more than `most_work` alone has a batch of its own.
    """

    size: int = 1
    delay_s: float = 0.0
    most_work: float = float("inf")


@dataclass(frozen=True, eq=False)
class Archive:
    """An unpacked archive: what its manifest and its YAML say; keys of TorchServe are `keys`."""

    folder: Path
    name: str
    version: str
    handler: str
    keys: Mapping[str, Any]

    @property
    def batch_limits(self) -> BatchLimits:
        """Return what the YAML says of batches."""
        return read_batch_limits(self.keys, self.name)

    @property
    def response_timeout_s(self) -> float:
        """Return after how long without an answer a worker counts as hung."""
        return read_response_timeout_s(self.keys, self.name)


def read_batch_limits(keys: Mapping[str, Any], name: str = "model") -> BatchLimits:
    """Return what the keys of TorchServe's say of batches; raises `ArchiveError`."""
    delay_s = read_number(keys, "maxBatchDelay", 0, name) / 1000
    return BatchLimits(max(int(read_number(keys, "batchSize", 1, name)), 1), delay_s)


def read_response_timeout_s(keys: Mapping[str, Any], name: str = "model") -> float:
    """Return after how long without an answer TorchServe ends a worker with these keys.

    Raises `ArchiveError`.
    """
    return read_number(keys, "responseTimeout", 120, name)


def read_number(keys: Mapping[str, Any], key: str, default: float, name: str) -> float:
    """Return a number of a model's YAML, the default where there is none.

    Raises `ArchiveError` for what is no number, or less than 0.
    """
    value = keys.get(key) or default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ArchiveError(f"{name}.yaml: {key}: expected a number of at least 0, got {value!r}.")
    return number


def read_section(keys: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """Return a section of a model's YAML, empty where there is none; raises `ArchiveError`."""
    section = keys.get(key) or {}
    if not isinstance(section, Mapping):
        raise ArchiveError(f"{name}.yaml: {key}: expected keys and values, got {section!r}.")
    return section


def read_yaml(path: Path, name: str) -> Mapping[str, Any]:
    """Return the keys of a model's YAML; raises `ArchiveError`, and `OSError` without the file."""
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ArchiveError(f"{name}.yaml: expected YAML, got something else.") from error
    if not isinstance(keys, Mapping):
        raise ArchiveError(f"{name}.yaml: expected keys and values.")
    return keys


def find_archives(store: Path) -> dict[str, Path]:
    """Return the archives of a model store by name, in any of the archiver's three formats.

    A store may be an unpacked archive itself.
    """
    if _is_unpacked(store):
        return {store.name: store}
    found = {}
    for path in sorted(store.iterdir()):
        if path.name.endswith(SUFFIXES) or _is_unpacked(path):
            found[_name(path)] = path
    return found


def _is_unpacked(folder: Path) -> bool:
    # Path.is_file raises for a folder that only root may open, such as a volume's lost+found.
    return os.path.isfile(folder / MANIFEST)  # noqa: PTH113


def _name(path: Path) -> str:
    """Return a file's name without the suffix of an archive; names may have dots."""
    return path.name.removesuffix(next(filter(path.name.endswith, SUFFIXES), ""))


def open_archive(path: Path, workspace: Path) -> Archive:
    """Return an archive, unpacked below `workspace` where it is not; raises `ArchiveError`."""
    folder = path if path.is_dir() else workspace / _name(path)
    if folder != path:
        _unpack(path, folder)
        folder = _within(folder)
    try:
        archive = _read(folder)
    # A manifest may be any JSON.
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path.name}: expected an archive of TorchServe's.") from error
    # What is wrong with these keys is told before a model is loaded.
    read_batch_limits(archive.keys, archive.name)
    read_response_timeout_s(archive.keys, archive.name)
    return archive


def _read(folder: Path) -> Archive:
    model = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
    name, config = str(model["modelName"]), model.get("configFile")
    keys = read_yaml(folder / config, name) if config else {}
    version = str(model.get("modelVersion") or "1.0")
    return Archive(folder, name, version, str(model["handler"]), keys)


def _within(folder: Path) -> Path:
    """Return where an archive's files are: the archiver's .tar.gz has a folder around them."""
    return next((each.parent.parent for each in folder.glob(f"*/{MANIFEST}")), folder)


def _unpack(path: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                zipped.extractall(folder)  # noqa: S202 - zipfile keeps members inside
        else:
            with tarfile.open(path) as tarred:
                tarred.extractall(folder, filter="data")
                _read_to_end(tarred)
    except tarfile.ReadError as error:
        raise ArchiveError(f"{path.name}: expected a .mar or .tar.gz, got another file.") from error
    except (OSError, *DAMAGED) as error:
        raise ArchiveError(f"{path.name}: {_say_damage(error)}") from error


def _read_to_end(tarred: tarfile.TarFile) -> None:
    """Let what is behind the last file be read: the checksum of all of them."""
    while tarred.fileobj and tarred.fileobj.read(2**20):
        pass


def _say_damage(error: Exception) -> str:
    """Return what was expected of an archive: whole files, and of the system room for them."""
    if isinstance(error, OSError) and error.errno:
        return f"expected to unpack it, got: {os.strerror(error.errno)}."
    return "expected a whole archive, got a damaged one."
