"""RNN-T decoding: from features to tokens with torchaudio's beam search, and from there to text."""

from collections.abc import Sequence

import torch
from pydantic.dataclasses import dataclass
from sentencepiece import SentencePieceProcessor

from device_io import STRICT


@dataclass(frozen=True, config=STRICT)
class EmformerSettings:
    """The `handler` keys of an Emformer RNN-T archive's YAML.

    The encoder's time and memory grow with the square of an utterance's length, hence the limit.
    """

    threads: int | None = None
    beam_width: int = 10
    max_audio_seconds: float = 120.0


def search_best_tokens(
    decoder: torch.jit.ScriptModule, features: torch.Tensor, beam_width: int
) -> list[int]:
    """Return the tokens of the best hypothesis for features of shape (frames, 80).

    The right-context frames count as frames, as in torchaudio's own bundle.
    """
    length = torch.tensor([features.shape[0]], device=features.device)
    hypotheses = decoder(features, length, beam_width)
    blank_and_tokens: list[int] = hypotheses[0][0]
    return blank_and_tokens[1:]


def tokens_to_text(pieces: SentencePieceProcessor, tokens: Sequence[int]) -> str:
    """Return the text of SentencePiece tokens; unknown, end and padding tokens have none."""
    silent = {pieces.unk_id(), pieces.eos_id(), pieces.pad_id()}
    words = "".join(pieces.id_to_piece(token) for token in tokens if token not in silent)
    return words.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip()
