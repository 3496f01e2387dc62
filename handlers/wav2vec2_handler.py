"""TorchServe handler for Wav2Vec2 CTC speech recognition: a recording in, its transcript out."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from audio_decoding import request_waveform
from ctc_recognition import Wav2Vec2Settings, compute_emissions, decode_greedy
from device_io import (
    Row,
    answer_requests,
    choose_device,
    choose_dtype,
    limit_threads,
    read_settings,
    refuse_explanation,
)


class Wav2VecHandler:
    """Transcribes recordings with a Hugging Face `Wav2Vec2ForCTC` checkpoint."""

    def __init__(self) -> None:
        self._context: Any = None
        self.initialized = False
        self.model: Any = None
        self.processor: Any = None
        self.device: torch.device | None = None
        self.expected_sampling_rate = 16_000

    def initialize(self, context: Any) -> None:
        """Load the checkpoint and its processor from the archive.

        Raises `ValueError` or `OSError`, which stop the load, for a mistake in the YAML or a
        missing file.
        """
        self._context = context
        self._settings = read_settings(Wav2Vec2Settings, context.model_yaml_config, "handler")
        limit_threads(self._settings.threads)
        properties = context.system_properties
        self.device = choose_device(properties.get("gpu_id"))
        self.dtype = choose_dtype(self._settings.dtype, self.device)
        self.processor = Wav2Vec2Processor.from_pretrained(properties["model_dir"])
        model: Any = Wav2Vec2ForCTC.from_pretrained(properties["model_dir"], dtype=self.dtype)
        self.model = model.to(self.device).eval()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript for each recording of the batch, in order."""
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._transcribe
        )

    def _parse(self, index: int, row: Row, context: Any) -> torch.Tensor:
        refuse_explanation(context, index)
        rate_hz, limit_s = self.expected_sampling_rate, self._settings.max_audio_seconds
        return request_waveform(row, context, index, rate_hz, limit_s)

    @torch.inference_mode()
    def _transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[str]:
        emissions = compute_emissions(self.model, [self._normalize(w) for w in waveforms])
        tokenizer = self.processor.tokenizer
        return [
            tokenizer.decode(
                decode_greedy(emission, tokenizer.pad_token_id), group_tokens=False
            ).strip()
            for emission in emissions
        ]

    def _normalize(self, waveform: torch.Tensor) -> torch.Tensor:
        features = self.processor.feature_extractor(
            waveform.numpy(), sampling_rate=self.expected_sampling_rate, return_tensors="pt"
        )
        normalized: torch.Tensor = features.input_values[0].to(self.device, self.dtype)
        return normalized
