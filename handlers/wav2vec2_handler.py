"""TorchServe handler for Wav2Vec2 CTC speech recognition: a recording in, its transcript out."""

from collections.abc import Sequence
from typing import Any

import torch

from batches import Answer, answer_requests
from device_io import Row, prepare_worker
from load_errors import check_files_and_explain
from speech_requests import (
    NDJSON,
    TRANSCRIPT_WRITERS,
    SpeechRequest,
    affordable_seconds,
    describe_recognizer,
    read_request,
    run_speech,
    send_segments,
    write_recognition,
)
from speechtext.host_memory import keep_loaded
from speechtext.settings import read_settings
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings

MEDIA_TYPES = (*TRANSCRIPT_WRITERS, NDJSON)


class Wav2VecHandler:
    """Transcribes recordings with a Hugging Face `Wav2Vec2ForCTC` checkpoint."""

    def __init__(self) -> None:
        self._context: Any = None
        self.initialized = False
        self.model: Any = None
        self.processor: Any = None
        self.device: torch.device | None = None
        self.expected_sampling_rate = Wav2Vec2Recognizer.sample_rate_hz

    @check_files_and_explain(
        "config.json", "vocab.json", "preprocessor_config.json|processor_config.json"
    )
    def initialize(self, context: Any) -> None:
        """Load the checkpoint and its processor from the archive, and run them once.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        self._context = context
        self._settings = read_settings(Wav2Vec2Settings, context.model_yaml_config, "handler")
        folder, self.device = prepare_worker(context, self._settings.threads)
        self.recognizer = Wav2Vec2Recognizer.load(folder, self._settings, self.device)
        self.model, self.processor = self.recognizer.model, self.recognizer.processor
        most_s = self._settings.max_audio_seconds
        self.max_audio_s = affordable_seconds(self.recognizer.cost, most_s, context)
        self._description = describe_recognizer(
            self.expected_sampling_rate,
            self.max_audio_s,
            self._settings.decoder,
            MEDIA_TYPES,
            hotwords=self._settings.decoder == "beam",
            language=self._settings.language,
        )
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript or alignment for each recording of the batch, in order."""
        return answer_requests(
            data,
            context,
            lambda index, row: self._parse(index, row, context),
            self._answer,
            self._description,
        )

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        rate_hz, choose = self.expected_sampling_rate, self.recognizer.choose_hotwords
        return read_request(row, context, index, rate_hz, self.max_audio_s, choose, MEDIA_TYPES)

    def _answer(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        costs = self.recognizer.cost, self.recognizer.hotword_cost
        return run_speech(self._recognize, requests, self.expected_sampling_rate, *costs)

    def _recognize(self, requests: Sequence[SpeechRequest]) -> list[Answer]:
        waveforms = [request.waveform for request in requests]
        hotwords = [request.hotwords for request in requests]
        found = self.recognizer.recognize(waveforms, hotwords, send_segments(requests))
        return list(map(write_recognition, requests, found))
