"""What travels in every archive: all of `handlers/`, without what tools leave there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from repository import HANDLER_FOLDER


def list_handler_files(folder: Path = HANDLER_FOLDER) -> Iterator[Path]:
    """Yield the files that travel, relative to `folder`, in an order that is always the same."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(map(_is_left_behind, relative.parts)):
            yield relative


def _is_left_behind(name: str) -> bool:
    """Tell whether a file or folder is a cache, or hidden."""
    return name.startswith(".") or name == "__pycache__"


def copy_handlers(target: Path, folder: Path = HANDLER_FOLDER) -> None:
    """Copy the files that travel into `target`, readable for whoever runs the server."""
    for relative in list_handler_files(folder):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / relative, target / relative)
        (target / relative).chmod(0o644)
