"""TorchServe handler for Wav2Vec2 CTC speech recognition: a recording in, its transcript out."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from audio_decoding import request_waveform
from cpu_convolutions import speed_up_convolutions
from ctc_recognition import (
    NORMALIZATION_EPSILON,
    Wav2Vec2Settings,
    check_architecture,
    choose_language,
    compute_emissions,
    find_best_path,
    frame_grid,
    group_words,
    normalize_in_place,
)
from device_io import (
    Answer,
    Row,
    answer_requests,
    choose_device,
    choose_dtype,
    limit_threads,
    read_settings,
    refuse_explanation,
    request_header,
)
from transcripts import (
    WRITERS,
    SpeechRequest,
    Transcript,
    Word,
    choose_media_type,
    response_format_of,
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
        """Load the checkpoint and its processor from the archive, and run them once.

        Raises `ValueError` or `OSError`, which stop the load, for a mistake in the YAML or a
        missing file.
        """
        self._context = context
        config = context.model_yaml_config
        self._settings = read_settings(Wav2Vec2Settings, config, "handler")
        limit_threads(self._settings.threads, config)
        properties = context.system_properties
        self.device = choose_device(properties.get("gpu_id"))
        self.dtype = choose_dtype(self._settings.dtype, self.device)
        self.processor = Wav2Vec2Processor.from_pretrained(properties["model_dir"])
        model: Any = Wav2Vec2ForCTC.from_pretrained(
            properties["model_dir"],
            dtype=self.dtype,
            attn_implementation=self._settings.attn_implementation,
        )
        check_architecture(model)
        if self._settings.target_lang:
            choose_language(model, self.processor, self._settings.target_lang)
        self.model = model.to(self.device, self.dtype).eval()
        if self.device.type == "cpu":
            speed_up_convolutions(self.model.wav2vec2.feature_extractor.conv_layers)
        self._transcribe([SpeechRequest(torch.zeros(self.expected_sampling_rate), "text/plain")])
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript for each recording of the batch, in order."""
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._transcribe
        )

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        refuse_explanation(context, index)
        accept = request_header(context, index, "Accept")
        media_type = choose_media_type(accept, response_format_of(row))
        rate_hz, limit_s = self.expected_sampling_rate, self._settings.max_audio_seconds
        waveform = request_waveform(row, context, index, rate_hz, limit_s)
        extractor = self.processor.feature_extractor
        if extractor.do_normalize:
            epsilon = getattr(extractor, "normalization_epsilon", NORMALIZATION_EPSILON)
            waveform = normalize_in_place(waveform, epsilon)
        return SpeechRequest(waveform, media_type)

    @torch.inference_mode()
    def _transcribe(self, requests: Sequence[SpeechRequest]) -> list[Answer]:
        waveforms = [request.waveform for request in requests]
        settings = self._settings
        emissions = compute_emissions(
            self.model, waveforms, settings.chunk_length_s, settings.stride_length_s
        )
        return [
            Answer(
                WRITERS[request.media_type](self._transcript(emission, len(request.waveform))),
                request.media_type,
            )
            for request, emission in zip(requests, emissions, strict=True)
        ]

    def _transcript(self, emission: torch.Tensor, samples: int) -> Transcript:
        tokenizer = self.processor.tokenizer
        tokens = find_best_path(emission, tokenizer.pad_token_id)
        frame_s = frame_grid(self.model).stride / self.expected_sampling_rate
        words = [
            Word(
                self._text([token.label for token in word]),
                word[0].start * frame_s,
                word[-1].stop * frame_s,
                sum(token.confidence for token in word) / len(word),
            )
            for word in group_words(tokens, tokenizer.word_delimiter_token_id)
        ]
        text = self._text([token.label for token in tokens])
        return Transcript(text, samples / self.expected_sampling_rate, words)

    def _text(self, labels: Sequence[int]) -> str:
        text: str = self.processor.tokenizer.decode(labels, group_tokens=False)
        return text.strip()
