"""TorchServe handler for Emformer RNN-T speech recognition: a recording in, its transcript out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from audio_decoding import request_waveform
from device_io import (
    Row,
    answer_requests,
    choose_device,
    limit_threads,
    read_settings,
    refuse_explanation,
)
from emformer_features import SAMPLE_RATE_HZ, load_features
from rnnt_decoding import EmformerSettings, search_best_tokens, tokens_to_text

STATISTICS_FILE = "global_stats.json"
SENTENCEPIECE_FILE = "spm.model"


class ModelHandler:
    """Transcribes recordings with a TorchScript `torchaudio.models.RNNTBeamSearch`."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: torch.device | None = None
        self.initialized = False

    def initialize(self, context: Any) -> None:
        """Load the TorchScript file that the manifest names, the statistics and the pieces.

        Raises `ValueError` or `OSError`, which stop the load, for a mistake in the YAML or a
        missing file.
        """
        self._settings = read_settings(EmformerSettings, context.model_yaml_config, "handler")
        limit_threads(self._settings.threads, context.model_yaml_config)
        folder = Path(context.system_properties["model_dir"])
        self.device = choose_device(context.system_properties.get("gpu_id"))
        model_path = folder / context.manifest["model"]["serializedFile"]
        decoder = torch.jit.load(str(model_path), self.device)
        self.model = decoder.eval()
        self._features = load_features(folder / STATISTICS_FILE).to(self.device).eval()
        self._pieces = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript for each recording of the batch, in order."""
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._transcribe
        )

    def _parse(self, index: int, row: Row, context: Any) -> torch.Tensor:
        refuse_explanation(context, index)
        limit_s = self._settings.max_audio_seconds
        return request_waveform(row, context, index, SAMPLE_RATE_HZ, limit_s)

    @torch.inference_mode()
    def _transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[str]:
        # RNNTBeamSearch takes one utterance at a time, so no request can touch another.
        return [self._transcribe_one(waveform) for waveform in waveforms]

    def _transcribe_one(self, waveform: torch.Tensor) -> str:
        features = self._features(waveform.to(self.device))
        tokens = search_best_tokens(self.model, features, self._settings.beam_width)
        return tokens_to_text(self._pieces, tokens)
