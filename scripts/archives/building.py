"""Archives in a model store: built when they are missing or something in them changed."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from archives.configs import ArchiveConfig, lasting_source, source_folder
from archives.disk_space import check_disk_space
from archives.errors import BuildError, SourceError
from archives.fingerprint import fingerprint
from archives.packaging import FORMATS, FormatName, Staging, archive_path, package
from archives.provenance import write_provenance
from records import EXACT, DamagedRecordError, read_record, write_record
from repository import HANDLER_FOLDER, MODEL_STORE

# Staging and archiving each write the model once.
COPIES_ON_DISK = 2


@dataclass(frozen=True, config=EXACT)
class BuildRecord:
    """What an archive was built from; it stands beside the archive, hidden."""

    source: str
    archive_format: FormatName
    fingerprint: str


def build_archive(
    config: ArchiveConfig,
    model_store: Path = MODEL_STORE,
    source: str | None = None,
    archive_format: FormatName | None = None,
    handlers: Path = HANDLER_FOLDER,
) -> Path:
    """Build an archive unless it is up to date; return its path.

    Without a `source` or a format the archive keeps those that it was built with, so that a model
    of your own stays; at first they are the YAML's source and a `.mar`. All of the folder
    `handlers` travels in it. Raises `BuildError`.
    """
    previous = _read_record(config, model_store)
    remembered = previous.source if previous else config.source
    source = lasting_source(source) if source else remembered
    archive_format = archive_format or (previous.archive_format if previous else "default")
    record = BuildRecord(source, archive_format, fingerprint(config, source, handlers))
    target = archive_path(model_store, config.name, archive_format)
    if record == previous and target.exists():
        print(f"{config.name}: up to date", flush=True)
        return target
    print(f"{config.name}: building from {source} ...", flush=True)
    started_s = time.monotonic()
    _check_room_for(source, model_store)
    _stage_and_package(config, record, model_store, handlers)
    write_record(_record_path(config, model_store), record)
    print(f"{config.name}: wrote {target} in {time.monotonic() - started_s:.0f} s", flush=True)
    return target


def find_archive(name: str, model_store: Path = MODEL_STORE) -> Path | None:
    """Return the archive of a name, in whichever format it is, if there is one."""
    paths = (archive_path(model_store, name, each) for each in FORMATS)
    return next((path for path in paths if path.exists()), None)


def _stage_and_package(
    config: ArchiveConfig, record: BuildRecord, model_store: Path, handlers: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="archive-") as name:
        staging = Staging.make(Path(name), handlers)
        weights = _stage(config, record.source, staging.model)
        write_provenance(record.source, staging.model, staging.handlers)
        with tempfile.TemporaryDirectory(prefix=".archive-", dir=model_store) as exported:
            built = package(config, staging, weights, record.archive_format, Path(exported))
            # Whatever breaks this off, the next run builds the same model again.
            write_record(_record_path(config, model_store), replace(record, fingerprint=""))
            _remove_previous(config, model_store)
            built.rename(model_store / built.name)


def _stage(config: ArchiveConfig, source: str, folder: Path) -> str:
    """Write the files of a source's model into a folder; return the name of the weights file."""
    # Here, not above: this imports PyTorch, seconds that an up-to-date archive does not cost.
    from archives.sources import STAGERS
    from archives.wav2vec2 import stage_voices

    stage = STAGERS.get(config.handler)
    if stage is None:
        raise BuildError(
            f"{config.path}: archive.handler: expected one of {', '.join(STAGERS)}, got "
            f"{config.handler}."
        )
    try:
        weights = stage(str(source_folder(source) or source), folder, config.handler_settings)
        stage_voices(config.handler_settings, folder)
    except (SourceError, ValueError) as error:
        raise BuildError(f"{config.name}: {_name_yaml(config, str(error))}") from error
    return weights


def _name_yaml(config: ArchiveConfig, said: str) -> str:
    """Return a sentence on a key of the YAML with the file's name before it, as workers say it."""
    return f"{config.path.name}: {said}" if said.startswith("handler.") else said


def _check_room_for(source: str, model_store: Path) -> None:
    folder = source_folder(source)
    size = sum(path.stat().st_size for path in folder.rglob("*")) if folder else 0
    model_store.mkdir(parents=True, exist_ok=True)
    for place in (model_store, Path(tempfile.gettempdir())):
        check_disk_space(place, size * COPIES_ON_DISK)


def _remove_previous(config: ArchiveConfig, model_store: Path) -> None:
    """Remove the archive in every format: TorchServe would load each as a model of that name."""
    for archive_format in FORMATS:
        path = archive_path(model_store, config.name, archive_format)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _record_path(config: ArchiveConfig, model_store: Path) -> Path:
    return model_store / f".{config.name}.json"


def _read_record(config: ArchiveConfig, model_store: Path) -> BuildRecord | None:
    path = _record_path(config, model_store)
    try:
        return read_record(path, BuildRecord)
    except DamagedRecordError:
        print(
            f"{config.name}: {path} is damaged, so that the archive's SOURCE and FORMAT are not "
            "known any more: building anew",
            flush=True,
        )
        return None
