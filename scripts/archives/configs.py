"""The archives that the YAML files of a folder describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from archives.errors import BuildError
from repository import CONFIG_FOLDER, ROOT

# Archives that are served when they are named, and what names every one.
MORE, EVERY_ARCHIVE = "more", "all"


@dataclass(frozen=True)
class ArchiveConfig:
    """One archive, as its YAML describes it."""

    name: str
    path: Path
    source: str
    handler: str
    example: Path
    example_headers: dict[str, str]
    handler_settings: dict[str, Any]

    @property
    def needs_openvino(self) -> bool:
        """Tell whether OpenVINO writes and runs its model."""
        return self.handler_settings.get("save_mode") == "openvino"


def read_configs(folder: Path = CONFIG_FOLDER) -> dict[str, ArchiveConfig]:
    """Return the archives that the YAML files of a folder describe, by name."""
    return {path.stem: read_config(path) for path in sorted(folder.glob("*.yaml"))}


def read_config(path: Path) -> ArchiveConfig:
    """Return the archive that a YAML file describes; raises `BuildError` where it does not."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    archive = content.get("archive") if isinstance(content, dict) else None
    missing = {"source", "handler", "example"} - set(archive or ())
    if not isinstance(archive, dict) or missing:
        raise BuildError(f"{path}: expected archive: with {', '.join(sorted(missing))}.")
    _check_workers(path, content)
    return ArchiveConfig(
        name=path.stem,
        path=path,
        source=archive["source"],
        handler=archive["handler"],
        example=ROOT / archive["example"],
        example_headers=archive.get("example_headers") or {},
        handler_settings=content.get("handler") or {},
    )


def _check_workers(path: Path, content: Mapping[str, Any]) -> None:
    """Raise `BuildError` where TorchServe 0.12 would let requests wait for the next one to come.

    Of several workers, the one that waits for a request keeps those that have some from going on.
    """
    workers = int(content.get("maxWorkers") or 1)
    if content.get("continuousBatching") and not content.get("sequenceBatching") and workers > 1:
        raise BuildError(
            f"{path}: expected maxWorkers: 1 with continuousBatching: true, as requests hang in "
            f"TorchServe otherwise; got {workers}."
        )


def known_configs(folder: Path = CONFIG_FOLDER) -> dict[str, ArchiveConfig]:
    """Return those, and the archives beside them that are served when they are named."""
    return read_configs(folder) | more_configs(folder)


def more_configs(folder: Path = CONFIG_FOLDER) -> dict[str, ArchiveConfig]:
    """Return the archives that are served when they are named."""
    return read_configs(folder / MORE)


def choose_configs(names: Sequence[str], folder: Path = CONFIG_FOLDER) -> list[ArchiveConfig]:
    """Return the archives named, without names those of a folder itself, and all for `all`.

    Raises `BuildError` for a name that is none.
    """
    known = known_configs(folder)
    if list(names) == [EVERY_ARCHIVE]:
        return list(known.values())
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BuildError(f"Expected models among {', '.join(known)}; got {', '.join(unknown)}.")
    return [known[name] for name in names or read_configs(folder)]


def source_folder(source: str) -> Path | None:
    """Return the folder that a source names, from here or from the repository, if it is one."""
    return next((path for path in (Path(source), ROOT / source) if path.is_dir()), None)
