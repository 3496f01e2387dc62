"""Archives as TorchServe loads them: unpacked, and read."""

import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = (".mar", ".tar.gz")
MANIFEST = Path("MAR-INF", "MANIFEST.json")


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
        return read_batch_limits(self.keys)

    @property
    def response_timeout_s(self) -> float:
        """Return after how long without an answer a worker counts as hung."""
        return read_response_timeout_s(self.keys)


def read_batch_limits(keys: Mapping[str, Any]) -> BatchLimits:
    """Return what the keys of TorchServe's say of batches."""
    delay_s = float(keys.get("maxBatchDelay") or 0) / 1000
    return BatchLimits(int(keys.get("batchSize") or 1), delay_s)


def read_response_timeout_s(keys: Mapping[str, Any]) -> float:
    """Return after how long without an answer TorchServe ends a worker with these keys."""
    return float(keys.get("responseTimeout") or 120)


def find_archives(store: Path) -> dict[str, Path]:
    """Return the archives of a model store by name, in any of the archiver's three formats.

    A store may be an unpacked archive itself.
    """
    if (store / MANIFEST).is_file():
        return {store.name: store}
    found = {}
    for path in sorted(store.iterdir()):
        if path.name.endswith(SUFFIXES) or (path / MANIFEST).is_file():
            found[_name(path)] = path
    return found


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
        model = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
        config = model.get("configFile")
        keys = yaml.safe_load((folder / config).read_text(encoding="utf-8")) if config else {}
        version = str(model.get("modelVersion") or "1.0")
        return Archive(folder, model["modelName"], version, model["handler"], keys or {})
    except (OSError, ValueError, LookupError, yaml.YAMLError) as error:
        raise ArchiveError(f"{path.name}: expected an archive of TorchServe's.") from error


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
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"{path.name}: expected a .mar or .tar.gz, got another file.") from error
