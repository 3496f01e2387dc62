"""Mistakes in an archive: each stops the load with one sentence that says what to change."""

import functools
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from speechtext.failures import is_out_of_memory

Initialize = Callable[[Any, Any], None]
# A library's message may be a report of many lines.
MOST_CHARACTERS = 500
TOKENIZER_FILE = "tokenizer.json"
# What make archive writes down of the files of an archive.
PROVENANCE_FILE = "provenance.json"
# What the handlers read of JSON, by name; an archive may hold other JSON for its owner.
OBJECTS = {
    "config.json",
    "index_to_name.json",
    "preprocessor_config.json",
    "processor_config.json",
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "vocab.json",
}


class LoadError(ValueError):
    """Why an archive cannot be loaded, in one sentence."""


def check_files_and_explain(*required: str) -> Callable[[Initialize], Initialize]:
    """Decorate `initialize(self, context)`: check the archive's files, and raise only `LoadError`.

    `required` are the files that an archive cannot do without, or several of which it needs one:
    `"vocab.json"`, `"preprocessor_config.json|processor_config.json"`.
    """

    def decorate(initialize: Initialize) -> Initialize:
        @functools.wraps(initialize)
        def checked(self: Any, context: Any) -> None:
            try:
                folder = Path(context.system_properties["model_dir"])
                serialized = context.manifest["model"].get("serializedFile")
                check_files(folder, [*required, *([serialized] if serialized else [])])
                initialize(self, context)
                # Last: whatever else is wrong with a file says more.
                check_digests(folder)
            except Exception as error:
                if isinstance(error, LoadError):
                    raise
                sentence = _sentence(error, context)
                # TorchServe has an answer of its own for this class.
                kind = MemoryError if is_out_of_memory(error) else LoadError
                raise kind(sentence) from error

        return checked

    return decorate


def check_files(folder: Path, required: Sequence[str]) -> None:
    """Raise `LoadError` for a file of an archive that is missing or damaged."""
    require_files(folder, required)
    for path in sorted(folder.iterdir()):
        check = CHECKS.get(path.suffix)
        if check and (path.suffix != ".bin" or path.name.startswith(PICKLED)):
            check(path)


def check_digests(folder: Path) -> None:
    """Raise `LoadError` where a file is not the one that was put into the archive.

    An archive that was made by other means has no file that says so.
    """
    path = folder / PROVENANCE_FILE
    recorded = json.loads(path.read_text(encoding="utf-8"))["sha256"] if path.exists() else {}
    for name, expected in recorded.items():
        if not (folder / name).exists():
            raise LoadError(f"{name}: expected in the archive, got no file.")
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise LoadError(
                f"{name}: expected the file that was archived, of SHA-256 {expected[:12]}, got "
                f"another, {found[:12]}; build the archive again."
            )


def require_files(folder: Path, required: Sequence[str]) -> None:
    """Raise `LoadError` for a file of an archive that is missing."""
    there = {path.name for path in folder.iterdir()}
    for names in required:
        if not there & set(names.split("|")):
            raise LoadError(f"{names.replace('|', ' or ')}: expected in the archive, got no file.")


def _check_json(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{path.name}: expected JSON, got a damaged file: {error}.") from error
    if path.name in OBJECTS and not isinstance(content, dict):
        raise LoadError(f"{path.name}: expected a JSON object, got a {type(content).__name__}.")
    if path.name == TOKENIZER_FILE:
        _check_tokenizer(path)


def _check_tokenizer(path: Path) -> None:
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # that library raises no other class
        raise LoadError(
            f"{path.name}: expected a tokenizer of the tokenizers library, got another file."
        ) from error


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise LoadError(
            f"{path.name}: expected safetensors, got a damaged file: {error}"
        ) from error


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise LoadError(f"{path.name}: expected TorchScript, got a damaged file.")


def _check_pickle(path: Path) -> None:
    """Read the names and sizes of weights that PyTorch pickled, and not the weights themselves."""
    try:
        # Files of before PyTorch 1.6 cannot be mapped.
        weights = torch.load(path, "meta", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except (RuntimeError, LookupError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise LoadError(
            f"{path.name}: expected pickled weights only, got a damaged file or code."
        ) from error
    if not isinstance(weights, dict):
        kind = type(weights).__name__
        raise LoadError(f"{path.name}: expected weights by name, got a {kind}.")


CHECKS: dict[str, Callable[[Path], None]] = {
    ".json": _check_json,
    ".safetensors": _check_safetensors,
    ".pt": _check_zip,
    ".bin": _check_pickle,
}
# A language model of KenLM has that ending too.
PICKLED = "pytorch_model"


def _sentence(error: Exception, context: Any) -> str:
    text = " ".join(str(error).split())[:MOST_CHARACTERS]
    if text.startswith(("handler", "pt2")):
        yaml = context.manifest["model"].get("configFile", "the model's YAML")
        return f"{yaml}: {text}"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
