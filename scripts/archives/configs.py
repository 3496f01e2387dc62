"""The archives that the YAML files of a folder describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

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


@checked_dataclass(frozen=True)
class ArchiveKeys:
    """The keys of `archive` in a model's YAML."""

    source: str
    handler: str
    example: str
    example_headers: dict[str, str] | None = None


@checked_dataclass(frozen=True)
class ModelYaml:
    """What is read here of a model's YAML; TorchServe and the handler read the rest."""

    archive: ArchiveKeys
    handler: dict[str, Any] | None = None
    maxWorkers: int | None = None  # noqa: N815


def read_configs(folder: Path = CONFIG_FOLDER) -> dict[str, ArchiveConfig]:
    """Return the archives that the YAML files of a folder describe, by name."""
    return {path.stem: read_config(path) for path in sorted(folder.glob("*.yaml"))}


def read_config(path: Path) -> ArchiveConfig:
    """Return the archive that a YAML file describes; raises `BuildError` where it does not."""
    content = _read_yaml(path)
    keys = _check_keys(path, content)
    _check_workers(path, content, keys.maxWorkers or 1)
    return ArchiveConfig(
        name=path.stem,
        path=path,
        source=keys.archive.source,
        handler=keys.archive.handler,
        example=ROOT / keys.archive.example,
        example_headers=keys.archive.example_headers or {},
        handler_settings=keys.handler or {},
    )


def _read_yaml(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise BuildError(f"{path}: expected YAML: {' '.join(str(error).split())}.") from error


def _check_keys(path: Path, content: Any) -> ModelYaml:
    """Return what is read of a YAML; raises `BuildError` with one sentence for each wrong key."""
    # Here, as the command line puts handlers/ on the path only when it has imported this module.
    from speechtext.settings import describe_problems

    archive = content.get("archive") if isinstance(content, dict) else None
    missing = {"source", "handler", "example"} - set(archive if isinstance(archive, dict) else ())
    if missing:
        raise BuildError(f"{path}: expected archive: with {', '.join(sorted(missing))}.")
    try:
        return TypeAdapter(ModelYaml).validate_python(content)
    except ValidationError as error:
        raise BuildError(f"{path}: {'; '.join(describe_problems(error, str, repr))}.") from error


def _check_workers(path: Path, content: Mapping[str, Any], workers: int) -> None:
    """Raise `BuildError` where TorchServe 0.12 would let requests wait for the next one to come.

    Of several workers, the one that waits for a request keeps those that have some from going on.
    """
    if content.get("continuousBatching") and not content.get("sequenceBatching") and workers > 1:
        raise BuildError(
            f"{path}: expected maxWorkers: 1 with continuousBatching: true, as requests hang in "
            f"TorchServe otherwise; got {workers}."
        )


def known_configs(folder: Path = CONFIG_FOLDER) -> dict[str, ArchiveConfig]:
    """Return those, and the archives beside them that are served when they are named.

    Of two with one name, it is that of the folder itself: somebody has put it before the other.
    """
    return more_configs(folder) | read_configs(folder)


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


def lasting_source(source: str) -> str:
    """Return a source that means the same from every folder."""
    folder = source_folder(source)
    if folder is None or folder.absolute() == ROOT / source:
        return source
    return str(folder.absolute())
