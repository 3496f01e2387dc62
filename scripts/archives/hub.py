"""Models of the Hugging Face hub, and folders laid out as there."""

from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from transformers.utils import logging as transformers_logging

from archives.errors import SourceError
from load_errors import MOST_CHARACTERS, LoadError, check_files
from speechtext.checkpoints import load_checkpoint

# Loading takes a moment; downloads keep their progress bar.
transformers_logging.disable_progress_bar()

ADAPTER_FILE = "adapter.{}.safetensors"
# Weights of other frameworks, which a hub repository may hold too.
OTHER_FRAMEWORKS = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*openvino*.bin"]
# Where there are safetensors. A language model of KenLM is a .bin, too.
PICKLED = "*pytorch_model*.bin"
HUB_TIMEOUT_S = 10.0


def local_folder(source: str, language: str | None = None) -> Path:
    """Return the folder of a source: the local one, else what the Hugging Face hub has of it.

    Of a checkpoint with an adapter for each language, the hub gives that of `language` only.

    Raises `SourceError` where it is neither a folder nor a model that the hub can give.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, ignore_patterns=_unused_files(source, language)))
    except (httpx2.HTTPError, OSError, ValueError):
        return _cached_folder(source)


def _unused_files(source: str, language: str | None) -> list[str]:
    """Return patterns of what no archive needs; asking the hub fails fast where it is away."""
    files = HfApi().model_info(source, timeout=HUB_TIMEOUT_S).siblings or ()
    names = [file.rfilename for file in files]
    pickled = [PICKLED] if any(name.endswith(".safetensors") for name in names) else []
    kept = ADAPTER_FILE.format(language)
    adapters = [name for name in names if name.startswith("adapter.") and name != kept]
    return [*OTHER_FRAMEWORKS, *pickled, *adapters]


def _cached_folder(source: str) -> Path:
    """Return what the cache has of a model, without what may not have been downloaded on purpose.

    Where one of these is needed after all, whoever loads it says so.
    """
    unused = [*OTHER_FRAMEWORKS, "*.bin", ADAPTER_FILE.format("*")]
    try:
        return Path(snapshot_download(source, local_files_only=True, ignore_patterns=unused))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{source} is neither a local folder nor a model that could be reached on the Hugging "
            "Face hub; pass SOURCE=path/to/folder with the files of the model."
        ) from error


def load_pretrained(loader: Any, folder: Path, **options: Any) -> Any:
    """Return what a class of transformers loads from a folder; raises `SourceError`."""
    try:
        return load_checkpoint(loader, folder, **options)
    except Exception as error:  # of damaged files, or of another model, those libraries raise any
        raise SourceError(
            f"{folder} is not a folder of such a model: {find_reason(folder, error)}"
        ) from error


def find_reason(folder: Path, error: Exception) -> str:
    """Return which file of a folder is damaged, or else what the library says that loaded it."""
    try:
        check_files(folder, [])
    except LoadError as damaged:
        return str(damaged)
    return " ".join(str(error).split())[:MOST_CHARACTERS] or type(error).__name__
