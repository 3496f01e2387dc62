"""Loading an Emformer RNN-T: its TorchScript file and its vocabulary."""

from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from speechtext.speech.rnnt.vocabulary import Vocabulary

MODEL_FILE = "model.pt"
SENTENCEPIECE_FILE = "spm.model"


def load_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of a folder; raises `ValueError` for a damaged file."""
    try:
        pieces = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{SENTENCEPIECE_FILE}: expected a SentencePiece model, got a damaged file."
        ) from error
    return Vocabulary(pieces)


def load_script(path: Path, device: torch.device) -> Any:
    """Return a TorchScript file on its device; raises `ValueError` for a damaged one."""
    try:
        return torch.jit.load(str(path), device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path.name}: expected TorchScript, got a damaged file.") from error
