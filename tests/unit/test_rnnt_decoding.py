"""RNN-T decoding gives torchaudio's hypotheses and torchaudio's text."""

import random

import pytest
import torch
import torchaudio
from sentencepiece import SentencePieceProcessor
from torchaudio.pipelines.rnnt_pipeline import _SentencePieceTokenProcessor

from build_archives import ROOT
from model_sources import load_emformer
from rnnt_decoding import search_best_tokens, tokens_to_text

FOLDER = ROOT / "demo_models" / "emformer_asr"
PIECES = SentencePieceProcessor(model_file=str(FOLDER / "spm.model"))
REFERENCE = _SentencePieceTokenProcessor(str(FOLDER / "spm.model"))


def test_text_equals_torchaudios() -> None:
    generator = random.Random(0)
    for _ in range(300):
        tokens = generator.choices(range(PIECES.get_piece_size()), k=generator.randrange(30))
        blank = PIECES.get_piece_size()
        assert tokens_to_text(PIECES, tokens) == REFERENCE([blank, *tokens]).strip()


@torch.inference_mode()
@pytest.mark.parametrize("beam_width", [1, 4])
def test_scripted_search_finds_the_eager_hypothesis(beam_width: int) -> None:
    model = load_emformer(FOLDER)
    eager = torchaudio.models.RNNTBeamSearch(model, PIECES.get_piece_size())
    scripted = torch.jit.script(eager)
    torch.manual_seed(0)
    for frames in (20, 37, 84):
        features = torch.randn(frames, 80)
        expected = eager(features, torch.tensor([frames]), beam_width)[0][0]
        assert search_best_tokens(scripted, features, beam_width) == expected[1:]
