"""TorchScript files of the common example: `torch.jit.script(RNNTBeamSearch(model, blank))`.

They tell neither frames nor probabilities, take one recording at a time and a time that grows with
the square of its length.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from speechtext.allowance import check_time
from speechtext.finite import check_finite
from speechtext.measurements import stage
from speechtext.speech.costs import SpeechCost
from speechtext.speech.hotwords import HotwordParameters, hotwords_unsupported
from speechtext.speech.rnnt.features import SAMPLE_RATE_HZ, load_features, whole_features
from speechtext.speech.rnnt.vocabulary import Vocabulary
from speechtext.speech.transcripts import Transcript

STATISTICS_FILE = "global_stats.json"
BEAM_WIDTH = 10
MAX_AUDIO_S = 120.0


class ScriptedBeamSearch:
    """Such a file, with the front end of the folder's statistics."""

    cost: SpeechCost
    hotword_cost = None
    has_words = False
    most_audio_s = MAX_AUDIO_S

    def __init__(
        self, model: Any, vocabulary: Vocabulary, folder: Path, beam_width: int | None
    ) -> None:
        self.model = model
        self._vocabulary = vocabulary
        self._device = next(model.parameters()).device
        self._front_end = load_features(folder / STATISTICS_FILE).to(self._device).eval()
        self._beam_width = beam_width or BEAM_WIDTH

    def choose_hotwords(self, asked: HotwordParameters) -> None:
        """Raise `RequestError` 422 for hotwords, which such a file cannot search for."""
        if asked.ask():
            raise hotwords_unsupported(
                "this archive has a search of torchaudio's, which takes none; build it with "
                "make archive from the model's weights, and set beam_width"
            )

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[Transcript]:
        """Return what is said in waveforms of shape (samples,) at 16 kHz, without its words."""
        with stage("model"):
            found = [self._search(waveform) for waveform in waveforms]
        return [
            Transcript(self._vocabulary.spell(labels), len(waveform) / SAMPLE_RATE_HZ, [])
            for labels, waveform in zip(found, waveforms, strict=True)
        ]

    def _search(self, waveform: torch.Tensor) -> list[int]:
        check_time()
        features = whole_features(self._front_end, waveform.to(self._device))
        # The right-context frames count as frames, as in torchaudio's own bundle.
        length = torch.tensor([len(features)], device=self._device)
        blank_and_labels, _, _, score = self.model(features, length, self._beam_width)[0]
        check_finite(torch.tensor([score]))
        labels: list[int] = blank_and_labels[1:]
        return labels
