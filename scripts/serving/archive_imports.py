"""Modules out of an unpacked archive, beside those of other archives and of the repository."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from repository import HANDLER_FOLDER

# The tables of modules and paths are the whole process's.
_IN_PLACE = threading.RLock()


class ArchiveImports:
    """The modules of an archive: in place of all others of their names while they are needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Import as the archive's worker does while the block runs, and as before after it."""
        with _IN_PLACE:
            names = _top_level_names(self._folder) | _top_level_names(HANDLER_FOLDER)
            path, others = sys.path[:], _take(names)
            sys.modules |= self._modules
            sys.path[:] = [str(self._folder), *(each for each in path if not _is_ours(each))]
            importlib.invalidate_caches()
            try:
                yield
            finally:
                self._modules = _take(names)
                sys.modules |= others
                sys.path[:] = path


def _top_level_names(folder: Path) -> set[str]:
    """Return the names of the modules and packages that lie in a folder."""
    modules = {path.stem for path in folder.glob("*.py")}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def _take(names: set[str]) -> dict[str, ModuleType]:
    """Remove the modules and packages of these names, with all in them, from those imported."""
    taken = [each for each in sys.modules if each.partition(".")[0] in names]
    return {each: sys.modules.pop(each) for each in taken}


def _is_ours(entry: str) -> bool:
    return Path(entry).resolve() == HANDLER_FOLDER
