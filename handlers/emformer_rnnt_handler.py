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
    SpeechOffer,
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
from speechtext.speech.rnnt.scripted_beam_search import ScriptedBeamSearch


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
        diarizer = load_diarizer(folder, self._settings, self._settings.dtype, self.device)
        self.model = self.recognizer.model
        most_s = self._settings.max_audio_seconds
        affordable_s = affordable_seconds(self.recognizer.cost, most_s, context)
        self._offer = SpeechOffer(
            SAMPLE_RATE_HZ,
            min(affordable_s, self.recognizer.most_audio_s),
            (*TRANSCRIPT_WRITERS, NDJSON) if self.recognizer.has_words else (PLAIN,),
            self.recognizer.choose_hotwords,
            diarizer if self.recognizer.has_words else None,
        )
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
        has_words, searches = self.recognizer.has_words, self._settings.beam_width is not None
        return describe_recognizer(
            SAMPLE_RATE_HZ,
            self._offer.max_audio_s,
            "beam" if searches or not has_words else "greedy",
            self._offer.media_types,
            explainable=has_words,
            hotwords=searches and has_words,
            language=self._settings.language,
            speakers=self._offer.diarizer is not None,
        )

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        if not self.recognizer.has_words:
            refuse_explanation(context, index)
        return read_request(row, context, index, self._offer)

    def _answer(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        recognizer = self.recognizer
        costs = SpeechCosts(recognizer.cost, recognizer.hotword_cost, self._offer.diarizer)
        return run_speech(self._recognize, requests, SAMPLE_RATE_HZ, costs)

    def _recognize(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        waveforms = [request.waveform for request in requests]
        if isinstance(self.recognizer, ScriptedBeamSearch):
            return list(map(write_transcript, requests, self.recognizer.transcribe(waveforms)))

        aligned = [request.explain for request in requests]
        hotwords = [request.hotwords for request in requests]
        send = send_segments(requests)
        found = self.recognizer.recognize(waveforms, aligned, send, hotwords)
        return write_recognitions(requests, found, self._offer.diarizer)
