"""TorchServe handler for Emformer RNN-T speech recognition: a recording in, its transcript out."""

from collections.abc import Sequence
from typing import Any

import torch

from batches import PLAIN, answer_requests
from device_io import Row, prepare_worker, refuse_explanation
from load_errors import check_files_and_explain
from speaker_requests import load_diarizer
from speech_requests import (
    NDJSON,
    TRANSCRIPT_WRITERS,
    SpeechCosts,
    SpeechRequest,
    affordable_seconds,
    describe_recognizer,
    read_request,
    run_speech,
    send_segments,
    write_recognitions,
    write_transcript,
)
from speechtext.host_memory import keep_loaded
from speechtext.settings import read_settings
from speechtext.speech.rnnt.features import SAMPLE_RATE_HZ
from speechtext.speech.rnnt.loading import SENTENCEPIECE_FILE
from speechtext.speech.rnnt.recognizer import EmformerSettings, load_recognizer
from speechtext.speech.rnnt.scripted_beam_search import MAX_AUDIO_S, ScriptedBeamSearch


class ModelHandler:
    """Transcribes recordings with the TorchScript file of an Emformer RNN-T."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: torch.device | None = None
        self.initialized = False

    @check_files_and_explain(SENTENCEPIECE_FILE)
    def initialize(self, context: Any) -> None:
        """Load the TorchScript file that the manifest names and the pieces, and run them.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        self._settings = read_settings(EmformerSettings, context.model_yaml_config, "handler")
        folder, self.device = prepare_worker(context, self._settings.threads)
        file = context.manifest["model"]["serializedFile"]
        self.recognizer = load_recognizer(folder, self._settings, self.device, file)
        self._diarizer = load_diarizer(folder, self._settings, self._settings.dtype, self.device)
        self.model = self.recognizer.model
        most_s = self._settings.max_audio_seconds
        self._max_audio_s = affordable_seconds(self.recognizer.cost, most_s, context)
        self._description = self._describe()
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

    def _describe(self) -> dict[str, Any]:
        scripted = isinstance(self.recognizer, ScriptedBeamSearch)
        decoder = "beam" if scripted or self._settings.beam_width else "greedy"
        limit_s, formats = self._limits()
        return describe_recognizer(
            SAMPLE_RATE_HZ,
            limit_s,
            decoder,
            formats,
            explainable=not scripted,
            hotwords=decoder == "beam" and not scripted,
            language=self._settings.language,
            speakers=self._diarizer is not None and not scripted,
        )

    def _limits(self) -> tuple[float, tuple[str, ...]]:
        """Return the longest recording, in seconds, and the media types of its transcript."""
        if isinstance(self.recognizer, ScriptedBeamSearch):
            return min(self._max_audio_s, MAX_AUDIO_S), (PLAIN,)
        return self._max_audio_s, (*TRANSCRIPT_WRITERS, NDJSON)

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        if isinstance(self.recognizer, ScriptedBeamSearch):
            refuse_explanation(context, index)
        limit_s, formats = self._limits()
        choose = self.recognizer.choose_hotwords
        # A search of torchaudio's own has no words with times.
        scripted = isinstance(self.recognizer, ScriptedBeamSearch)
        diarizer = None if scripted else self._diarizer
        return read_request(row, context, index, SAMPLE_RATE_HZ, limit_s, choose, formats, diarizer)

    def _answer(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        recognizer = self.recognizer
        costs = SpeechCosts(recognizer.cost, recognizer.hotword_cost, self._diarizer)
        return run_speech(self._recognize, requests, SAMPLE_RATE_HZ, costs)

    def _recognize(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        waveforms = [request.waveform for request in requests]
        if isinstance(self.recognizer, ScriptedBeamSearch):
            return list(map(write_transcript, requests, self.recognizer.transcribe(waveforms)))

        aligned = [request.explain for request in requests]
        hotwords = [request.hotwords for request in requests]
        send = send_segments(requests)
        found = self.recognizer.recognize(waveforms, aligned, send, hotwords)
        return write_recognitions(requests, found, self._diarizer)
