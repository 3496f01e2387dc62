"""TorchScript files of the common example: `torch.jit.script(RNNTBeamSearch(model, blank))`.

They tell neither frames nor probabilities, take one recording at a time and a time that grows with
the square of its length.
"""

from pathlib import Path
from typing import Any

import torch

from emformer_features import load_features, whole_features

STATISTICS_FILE = "global_stats.json"
BEAM_WIDTH = 10
MAX_AUDIO_S = 120.0


class ScriptedBeamSearch:
    """Such a file, with the front end of the archive's statistics."""

    def __init__(self, model: Any, folder: Path, beam_width: int | None) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._front_end = load_features(folder / STATISTICS_FILE).to(self._device).eval()
        self._beam_width = beam_width or BEAM_WIDTH

    def __call__(self, waveform: torch.Tensor) -> list[int]:
        """Return the tokens of the best hypothesis for a waveform of shape (samples,) at 16 kHz."""
        features = whole_features(self._front_end, waveform.to(self._device))
        # The right-context frames count as frames, as in torchaudio's own bundle.
        length = torch.tensor([len(features)], device=self._device)
        blank_and_tokens: list[int] = self._model(features, length, self._beam_width)[0][0]
        return blank_and_tokens[1:]


def is_beam_search(model: Any) -> bool:
    """Tell whether a TorchScript module is one of those."""
    return bool(model.original_name == "RNNTBeamSearch")
