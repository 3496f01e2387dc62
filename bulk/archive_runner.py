"""An archive in a process of its own, for jobs that nobody waits for."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.archives import MANIFEST, Archive, open_archive
from cluster.requests import WorkerAnswer, WorkerRequest, join_parts
from cluster.served_model import DESCRIBE
from cluster.worker import ArchiveWorker, load_alone

# Limits of what is admitted follow from TorchServe's time limit, which no job has.
NO_TIMEOUT_S = 10**9


class ArchiveRunner:
    """Answers requests with an archive, any number at a time."""

    def __init__(self, archive: Archive, gpu_id: int | None = None) -> None:
        lift_timeout(archive)
        service = load_alone(archive, gpu_id)
        # TorchServe's own name for it: what is cut has no request.
        self.handler: Any = service._entry_point.__self__
        self._worker = ArchiveWorker(service)

    @property
    def kind(self) -> str:
        """Return what kind of model the handler says that it has."""
        (answer,) = self.answer([DESCRIBE])
        return str(json.loads(answer.body)["kind"])

    def answer(self, requests: Sequence[WorkerRequest]) -> list[WorkerAnswer]:
        """Return the answers to requests, in order."""
        # A model that generates tells of what it has, and then of the end, whoever asks.
        parts: list[list[WorkerAnswer]] = [[] for _ in requests]
        self._worker.answer(requests, lambda number, part: parts[number].append(part))
        return [join_parts(each) for each in parts]


def unpack_copy(path: Path, workspace: Path) -> Archive:
    """Return an archive that is unpacked below `workspace`, whatever its format."""
    if not path.is_dir():
        return open_archive(path, workspace)
    copy = workspace / path.name
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return open_archive(copy, workspace)


def lift_timeout(archive: Archive) -> None:
    """Let an unpacked archive take all the time that its recordings and texts need."""
    config = _config_file(archive)
    if config:
        keys = {**archive.keys, "responseTimeout": NO_TIMEOUT_S}
        config.write_text(yaml.safe_dump(keys), encoding="utf-8")


def _config_file(archive: Archive) -> Path | None:
    manifest = yaml.safe_load((archive.folder / MANIFEST).read_text(encoding="utf-8"))
    name = manifest["model"].get("configFile")
    return archive.folder / name if name else None
