"""From the files of a model to an archive: what torch-model-archiver is told."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from archives.configs import ArchiveConfig
from archives.errors import BuildError
from archives.handler_files import copy_handlers

# How torch-model-archiver names what it writes.
FORMATS = {"default": ".mar", "tgz": ".tar.gz", "no-archive": ""}


def archive_path(folder: Path, name: str, archive_format: str) -> Path:
    """Return where the archive of a name lies in a folder."""
    return folder / f"{name}{FORMATS[archive_format]}"


def package(
    config: ArchiveConfig, staged: Path, weights: str, archive_format: str, exported: Path
) -> Path:
    """Write the archive of the files in `staged` to the folder `exported`; return its path.

    `weights` names the one of them that the manifest calls the serialized file. Raises `BuildError`
    with what torch-model-archiver says.
    """
    for path in staged.iterdir():
        path.chmod(0o644)  # the server may run as another user
    with tempfile.TemporaryDirectory(prefix="handlers-") as name:
        handlers, temporary = Path(name) / "handlers", Path(name) / "tmp"
        copy_handlers(handlers)
        temporary.mkdir()
        model_files = sorted(path for path in staged.iterdir() if path.name != weights)
        command = [
            str(Path(sys.executable).with_name("torch-model-archiver")),
            *("--model-name", config.name),
            *("--version", "1.0"),
            *("--serialized-file", str(staged / weights)),
            *("--handler", str(handlers / config.handler)),
            *("--extra-files", ",".join(map(str, (*model_files, handlers)))),
            *("--config-file", str(config.path)),
            *("--export-path", str(exported)),
            *("--archive-format", archive_format),
        ]
        _run(config.name, command, temporary)
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
