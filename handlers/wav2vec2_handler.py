"""TorchServe handler for Wav2Vec2 CTC speech recognition: a recording in, its transcript out."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from alignments import Alignment, Alternatives
from batches import answer_requests
from cpu_convolutions import speed_up_convolutions
from ctc_alternatives import find_alternatives
from ctc_beam import Decode, load_beam_decoder
from ctc_recognition import (
    NORMALIZATION_EPSILON,
    Wav2Vec2Settings,
    check_architecture,
    choose_language,
    compute_emissions,
    find_best_path,
    frame_grid,
    group_words,
    name_labels,
    normalize_in_place,
)
from device_io import (
    Answer,
    Row,
    choose_device,
    choose_dtype,
    limit_threads,
    read_settings,
)
from host_memory import keep_loaded
from load_errors import one_sentence
from measurements import stage
from speech_requests import SpeechRequest, read_request, write_answer
from transcripts import PLAIN, Token, Transcript, time_words


class Wav2VecHandler:
    """Transcribes recordings with a Hugging Face `Wav2Vec2ForCTC` checkpoint."""

    def __init__(self) -> None:
        self._context: Any = None
        self.initialized = False
        self.model: Any = None
        self.processor: Any = None
        self.device: torch.device | None = None
        self.expected_sampling_rate = 16_000

    @one_sentence("config.json", "vocab.json", "preprocessor_config.json|processor_config.json")
    def initialize(self, context: Any) -> None:
        """Load the checkpoint and its processor from the archive, and run them once.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
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
        self._decode = self._choose_decoder(Path(properties["model_dir"]))
        self._labels = name_labels(self.processor.tokenizer, self.model.config.vocab_size)
        self._frame_s = frame_grid(self.model).stride / self.expected_sampling_rate
        self._answer([SpeechRequest(torch.zeros(self.expected_sampling_rate), PLAIN)])
        keep_loaded()
        self.initialized = True

    def _choose_decoder(self, folder: Path) -> Decode:
        tokenizer = self.processor.tokenizer
        if self._settings.decoder == "beam":
            return load_beam_decoder(self._settings, tokenizer, folder)
        return functools.partial(find_best_path, blank=tokenizer.pad_token_id)

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript or alignment for each recording of the batch, in order."""
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._answer
        )

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        rate_hz, limit_s = self.expected_sampling_rate, self._settings.max_audio_seconds
        request = read_request(row, context, index, rate_hz, limit_s)
        extractor = self.processor.feature_extractor
        if extractor.do_normalize:
            epsilon = getattr(extractor, "normalization_epsilon", NORMALIZATION_EPSILON)
            normalize_in_place(request.waveform, epsilon)
        return request

    @torch.inference_mode()
    def _answer(self, requests: Sequence[SpeechRequest]) -> list[Answer]:
        waveforms = [request.waveform for request in requests]
        settings = self._settings
        with stage("model"):
            emissions = compute_emissions(
                self.model, waveforms, settings.chunk_length_s, settings.stride_length_s
            )
        with stage("decode"):
            return [
                self._write(request, emission)
                for request, emission in zip(requests, emissions, strict=True)
            ]

    def _write(self, request: SpeechRequest, emission: torch.Tensor) -> Answer:
        probabilities = emission.softmax(dim=-1)
        tokens = self._decode(probabilities)
        spoken = group_words(tokens, self.processor.tokenizer.word_delimiter_token_id)
        words = time_words(spoken, [self._text(word) for word in spoken], self._frame_s)
        duration_s = len(request.waveform) / self.expected_sampling_rate
        transcript = Transcript(self._text(tokens), duration_s, words)
        align = functools.partial(
            Alignment,
            request.waveform,
            probabilities,
            self._labels,
            self._frame_s,
            transcript,
            spoken,
            functools.partial(self._find_alternatives, probabilities),
        )
        return write_answer(request, transcript, align)

    def _find_alternatives(
        self, probabilities: torch.Tensor, word: Sequence[Token]
    ) -> Alternatives:
        tokenizer = self.processor.tokenizer
        blank, delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        frames = probabilities[word[0].start : word[-1].stop]
        return find_alternatives(frames, self._labels, blank, delimiter)

    def _text(self, tokens: Sequence[Token]) -> str:
        labels = [token.label for token in tokens]
        text: str = self.processor.tokenizer.decode(labels, group_tokens=False)
        return text.strip()
