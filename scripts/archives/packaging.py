"""From the files of a model to an archive: what torch-model-archiver is told."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from archives.configs import ArchiveConfig
from archives.errors import BuildError
from archives.handler_files import copy_handlers

FormatName = Literal["default", "tgz", "no-archive"]
# How torch-model-archiver names what it writes.
FORMATS: dict[FormatName, str] = {"default": ".mar", "tgz": ".tar.gz", "no-archive": ""}


def archive_path(folder: Path, name: str, archive_format: FormatName) -> Path:
    """Return where the archive of a name lies in a folder."""
    return folder / f"{name}{FORMATS[archive_format]}"


@dataclass(frozen=True)
class Staging:
    """Folders of an archive in the making: its model, the handlers, what the archiver needs."""

    model: Path
    handlers: Path
    temporary: Path

    @classmethod
    def make(cls, folder: Path, handlers: Path) -> Self:
        """Make the folders in `folder`, with what travels of `handlers`."""
        staging = cls(folder / "model", folder / "handlers", folder / "tmp")
        staging.model.mkdir()
        staging.temporary.mkdir()
        copy_handlers(staging.handlers, handlers)
        return staging


def package(
    config: ArchiveConfig,
    staging: Staging,
    weights: str,
    archive_format: FormatName,
    exported: Path,
) -> Path:
    """Write the archive of what is staged to the folder `exported`; return its path.

    `weights` names the file of the model that the manifest calls the serialized one. Raises
    `BuildError` with what torch-model-archiver says.
    """
    for path in staging.model.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the server may run as another user
    for path in filter(Path.is_dir, list(staging.model.iterdir())):
        # Given a folder, the archiver takes what is inside.
        path.rename(staging.handlers / path.name)
    files = sorted(staging.model.iterdir())
    extra = [*(path for path in files if path.name != weights), staging.handlers]
    command = [
        str(Path(sys.executable).with_name("torch-model-archiver")),
        *("--model-name", config.name),
        *("--version", "1.0"),
        *("--serialized-file", str(staging.model / weights)),
        *("--handler", str(staging.handlers / config.handler)),
        *("--extra-files", ",".join(map(str, extra))),
        *("--config-file", str(config.path)),
        *("--export-path", str(exported)),
        *("--archive-format", archive_format),
    ]
    _run(config.name, command, staging.temporary)
    return archive_path(exported, config.name, archive_format)


def _run(name: str, command: list[str], temporary: Path) -> None:
    """Run the archiver in a temporary folder of its own.

    It deletes the folder of the model's name in the temporary one before it packs, whoever's it is.
    """
    environment = {**os.environ, "TMPDIR": str(temporary)}
    result = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=environment
    )
    if result.returncode:
        raise BuildError(f"{name}: torch-model-archiver failed: {result.stderr.strip()}")
