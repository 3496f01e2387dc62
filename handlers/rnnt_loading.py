"""What the archives of an Emformer RNN-T hold, loaded."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentencepiece import SentencePieceProcessor

from device_io import choose_device, limit_threads

SENTENCEPIECE_FILE = "spm.model"


class LoadedArchive(NamedTuple):
    """A TorchScript file, the pieces of its text, and the device they are used on."""

    model: Any
    pieces: SentencePieceProcessor
    device: torch.device
    folder: Path


def load_archive(context: Any, threads: int | None) -> LoadedArchive:
    """Load the TorchScript file that the manifest names and the pieces.

    Raises `ValueError` or `OSError` for a missing or damaged file.
    """
    limit_threads(threads, context.model_yaml_config)
    folder = Path(context.system_properties["model_dir"])
    device = choose_device(context.system_properties.get("gpu_id"))
    try:
        pieces = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
    except RuntimeError as error:
        raise ValueError(
            f"{SENTENCEPIECE_FILE}: expected a SentencePiece model, got a damaged file."
        ) from error
    path = folder / context.manifest["model"]["serializedFile"]
    model = torch.jit.load(str(path), device).eval()
    return LoadedArchive(model, pieces, device, folder)
