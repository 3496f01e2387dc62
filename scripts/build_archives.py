"""Build the model archives that TorchServe loads, those that are missing or out of date."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG_FOLDER = ROOT / "model_configs"
HANDLER_FOLDER = ROOT / "handlers"
MODEL_STORE = ROOT / "model_store"
# How torch-model-archiver names what it writes.
FORMATS = {"default": ".mar", "tgz": ".tar.gz", "no-archive": ""}
# What decides how a model becomes an archive.
BUILDERS = ("build_archives.py", "model_sources.py", "wav2vec2_bundles.py")
# Staging and archiving each write the model once.
COPIES_ON_DISK = 2


class BuildError(Exception):
    """Why an archive could not be built, in one sentence."""


@dataclass(frozen=True)
class ArchiveConfig:
    """One archive, as its YAML describes it. `modules` are the files that its handler imports."""

    name: str
    path: Path
    source: str
    handler: str
    modules: tuple[str, ...]
    example: Path
    example_headers: dict[str, str]
    handler_settings: dict[str, Any]


@dataclass(frozen=True)
class BuildRecord:
    """What an archive was built from; it stands beside the archive, hidden."""

    source: str
    archive_format: str
    fingerprint: str


def read_configs() -> dict[str, ArchiveConfig]:
    """Return the archives that `model_configs/` describes, by name."""
    return {path.stem: read_config(path) for path in sorted(CONFIG_FOLDER.glob("*.yaml"))}


def read_config(path: Path) -> ArchiveConfig:
    """Return the archive that a YAML file describes."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    archive = content["archive"]
    return ArchiveConfig(
        name=path.stem,
        path=path,
        source=archive["source"],
        handler=archive["handler"],
        modules=tuple(archive["modules"]),
        example=ROOT / archive["example"],
        example_headers=archive.get("example_headers") or {},
        handler_settings=content.get("handler") or {},
    )


def choose_configs(names: Sequence[str]) -> list[ArchiveConfig]:
    """Return the archives named, or all of them; raises `BuildError` for a name that is none."""
    configs = read_configs()
    unknown = sorted(set(names) - set(configs))
    if unknown:
        raise BuildError(f"Expected models among {', '.join(configs)}; got {', '.join(unknown)}.")
    return [configs[name] for name in names or configs]


def build_archive(
    config: ArchiveConfig,
    model_store: Path = MODEL_STORE,
    source: str | None = None,
    archive_format: str | None = None,
) -> Path:
    """Build an archive unless it is up to date; return its path.

    Without a `source` or a format the archive keeps those that it was built with, so that a model
    of your own stays; at first they are the YAML's source and a `.mar`.
    """
    previous = _read_record(config, model_store)
    source = source or (previous.source if previous else config.source)
    archive_format = archive_format or (previous.archive_format if previous else "default")
    record = BuildRecord(source, archive_format, fingerprint(config, source))
    target = model_store / f"{config.name}{FORMATS[archive_format]}"
    if record == previous and target.exists():
        print(f"{config.name}: up to date", flush=True)
        return target
    print(f"{config.name}: building from {source} ...", flush=True)
    started_s = time.monotonic()
    _check_room_for(source, model_store)
    _package(config, source, archive_format, model_store)
    _record_path(config, model_store).write_text(json.dumps(asdict(record)), encoding="utf-8")
    print(f"{config.name}: wrote {target} in {time.monotonic() - started_s:.0f} s", flush=True)
    return target


def fingerprint(config: ArchiveConfig, source: str) -> str:
    """Return a digest of everything that an archive is made of."""
    digest = hashlib.sha256(source.encode())
    for path in _inputs(config, source):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _inputs(config: ArchiveConfig, source: str) -> Iterator[Path]:
    yield config.path
    yield from (HANDLER_FOLDER / name for name in (config.handler, *config.modules))
    yield from (ROOT / "scripts" / name for name in BUILDERS)
    folder = _source_folder(source)
    if folder:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _source_folder(source: str) -> Path | None:
    """Return the folder that a source names, from here or from the repository, if it is one."""
    return next((path for path in (Path(source), ROOT / source) if path.is_dir()), None)


def _package(config: ArchiveConfig, source: str, archive_format: str, model_store: Path) -> None:
    # Here, not above: this imports PyTorch, seconds that an up-to-date archive does not cost.
    from model_sources import STAGERS, SourceError

    model_store.mkdir(parents=True, exist_ok=True)
    folder = _source_folder(source)
    with tempfile.TemporaryDirectory(prefix="archive-") as staging:
        staged = Path(staging)
        try:
            stage = STAGERS[config.handler]
            weights = stage(str(folder or source), staged, config.handler_settings)
        except (SourceError, ValueError) as error:
            raise BuildError(f"{config.name}: {error}") from error
        with tempfile.TemporaryDirectory(prefix=".archive-", dir=model_store) as exported:
            built = _run_archiver(config, staged, weights, archive_format, Path(exported))
            _remove_previous(config, model_store)
            built.rename(model_store / built.name)


def _run_archiver(
    config: ArchiveConfig, staged: Path, weights: str, archive_format: str, exported: Path
) -> Path:
    for path in staged.iterdir():
        path.chmod(0o644)  # the server may run as another user
    extra = sorted(path for path in staged.iterdir() if path.name != weights)
    extra += [HANDLER_FOLDER / name for name in config.modules]
    command = [
        str(Path(sys.executable).with_name("torch-model-archiver")),
        *("--model-name", config.name),
        *("--version", "1.0"),
        *("--serialized-file", str(staged / weights)),
        *("--handler", str(HANDLER_FOLDER / config.handler)),
        *("--extra-files", ",".join(map(str, extra))),
        *("--config-file", str(config.path)),
        *("--export-path", str(exported)),
        *("--archive-format", archive_format),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise BuildError(f"{config.name}: torch-model-archiver failed: {result.stderr.strip()}")
    return exported / f"{config.name}{FORMATS[archive_format]}"


def _check_room_for(source: str, model_store: Path) -> None:
    folder = _source_folder(source)
    size = sum(path.stat().st_size for path in folder.rglob("*")) if folder else 0
    model_store.mkdir(parents=True, exist_ok=True)
    for place in (model_store, Path(tempfile.gettempdir())):
        check_disk_space(place, size * COPIES_ON_DISK)


def check_disk_space(place: Path, needed_bytes: int) -> None:
    """Raise `BuildError` where `place` has less room than is needed."""
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise BuildError(
            f"Expected {needed_bytes / 1e6:.0f} MB of free disk space in {place}, "
            f"got {free_bytes / 1e6:.0f} MB."
        )


def _remove_previous(config: ArchiveConfig, model_store: Path) -> None:
    """Remove the archive in every format: TorchServe would load each as a model of that name."""
    _record_path(config, model_store).unlink(missing_ok=True)
    for ending in FORMATS.values():
        path = model_store / f"{config.name}{ending}"
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _record_path(config: ArchiveConfig, model_store: Path) -> Path:
    return model_store / f".{config.name}.json"


def _read_record(config: ArchiveConfig, model_store: Path) -> BuildRecord | None:
    path = _record_path(config, model_store)
    if not path.exists():
        return None
    return BuildRecord(**json.loads(path.read_text(encoding="utf-8")))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="archives to build; default all")
    parser.add_argument(
        "--source",
        help="hub name, folder, torchaudio or torchaudio:BUNDLE; default as last time",
    )
    parser.add_argument("--format", choices=FORMATS, help="default as last time, else a .mar")
    parser.add_argument("--model-store", type=Path, default=MODEL_STORE, help="where to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; return the exit status."""
    options = parse_arguments(arguments)
    try:
        configs = choose_configs(options.models)
        if options.source and len(configs) != 1:
            raise BuildError("Expected one MODEL with a SOURCE, for example MODEL=wav2vec2.")
        for config in configs:
            build_archive(config, options.model_store, options.source, options.format)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(HANDLER_FOLDER))
    sys.exit(main())
