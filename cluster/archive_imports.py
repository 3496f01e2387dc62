"""Modules out of an unpacked archive, beside those of other archives and of the repository."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

# Where the handlers lie that archives are built from, and which those of an archive hide.
HANDLER_FOLDER = Path(__file__).resolve().parent.parent / "handlers"

# The tables of modules and paths are the whole process's.
_IN_PLACE = threading.RLock()


class ArchiveImports:
    """The modules of an archive: in place of all others of their names while they are needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Looked up once: benchmarks answer requests in place, too.
        self._names = _module_names(folder) | _module_names(HANDLER_FOLDER)
        self._modules: dict[str, ModuleType] = {}
        importlib.invalidate_caches()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Import as the archive's worker does while the block runs, and as before after it."""
        with _IN_PLACE:
            path, others = sys.path[:], self._take()
            sys.modules |= self._modules
            sys.path[:] = [str(self._folder), *(each for each in path if not _is_ours(each))]
            try:
                yield
            finally:
                self._modules = self._take()
                sys.modules |= others
                sys.path[:] = path

    def _take(self) -> dict[str, ModuleType]:
        """Remove the modules of these names from those imported."""
        return {name: sys.modules.pop(name) for name in self._names & sys.modules.keys()}


def _module_names(folder: Path) -> set[str]:
    """Return the dotted names of the modules and packages that lie in a folder."""
    paths = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    return {".".join(parts).removesuffix(".__init__") for parts in paths}


@cache
def _is_ours(entry: str) -> bool:
    return Path(entry).resolve() == HANDLER_FOLDER
