"""A digest of everything that can change an archive."""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from archives.configs import ArchiveConfig, source_folder
from archives.handler_files import list_handler_files
from repository import ROOT

# What writes into an archive; other versions of these may write something else.
WRITERS = (
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "torch-model-archiver",
    "torchaudio",
    "transformers",
)
# What writes archives with `save_mode: openvino`, where it is installed.
OPENVINO_WRITERS = ("nncf", "openvino")
BUILDERS = Path(__file__).resolve().parent


def fingerprint(config: ArchiveConfig, source: str, handlers: Path) -> str:
    """Return the digest of an archive's YAML and model, the handlers, the builders and libraries.

    It is that of the files' contents and names, so that no other clock or folder changes it.
    """
    digest = hashlib.sha256(source.encode())
    optional = OPENVINO_WRITERS if config.needs_openvino else ()
    for library, version in find_versions((*WRITERS, *optional)).items():
        digest.update(f"\0{library}=={version}".encode())
    for name, path in _inputs(config, source, handlers):
        digest.update(f"\0{name}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def find_versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of libraries, by name, of those that are installed."""
    found = {}
    for name in libraries:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _inputs(config: ArchiveConfig, source: str, handlers: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file, and the name under which it counts."""
    yield config.path.name, config.path
    for path in list_handler_files(handlers):
        yield f"handlers/{path}", handlers / path
    for path in sorted(BUILDERS.rglob("*.py")):
        yield f"builders/{path.relative_to(BUILDERS)}", path
    yield from _files_of("source", source)
    if speaker_model := config.handler_settings.get("speaker_model"):
        yield from _files_of("voices", str(speaker_model))
    if calibration := config.handler_settings.get("calibration"):
        path = ROOT / str(calibration)
        yield from [("calibration", path)] if path.is_file() else _files_in("calibration", path)


def _files_of(name: str, source: str) -> Iterator[tuple[str, Path]]:
    if folder := source_folder(source):
        yield from _files_in(name, folder)


def _files_in(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield f"{name}/{path.relative_to(folder)}", path
