"""Loading an Emformer RNN-T: its TorchScript file and its vocabulary."""

from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from speechtext.checkpoints import load_script
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


def load_transducer(path: Path, device: torch.device, vocabulary: Vocabulary) -> Any:
    """Return a TorchScript file on its device.

    Raises `ValueError` for another kind of model, and for one with another vocabulary.
    """
    model = load_script(path, device)
    if not (is_beam_search(model) or hasattr(model, "encoder")):
        raise ValueError(f"{path.name}: expected an Emformer RNN-T, got a {model.original_name}.")
    check_vocabulary(vocabulary, model.blank if is_beam_search(model) else model.decoder.blank)
    return model


def check_vocabulary(vocabulary: Vocabulary, blank: int) -> None:
    """Raise `ValueError` where the pieces are not the labels before the `blank`, the last one."""
    if len(vocabulary) != blank:
        raise ValueError(
            f"{SENTENCEPIECE_FILE}: expected {blank} pieces, as many as the model has labels, got "
            f"{len(vocabulary)}."
        )


def check_beam_width(width: int | None, vocabulary: Vocabulary) -> None:
    """Raise `ValueError` where a search keeps more hypotheses than there are pieces.

    It begins with one hypothesis, which goes on with so many at most.
    """
    if width and width > len(vocabulary):
        raise ValueError(
            f"handler.beam_width: expected at most {len(vocabulary)}, as many as the model has "
            f"pieces, got {width}."
        )


def is_beam_search(model: Any) -> bool:
    """Tell whether a TorchScript module is `torchaudio.models.RNNTBeamSearch`."""
    return bool(model.original_name == "RNNTBeamSearch")
