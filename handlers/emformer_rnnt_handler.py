"""TorchServe handler for Emformer RNN-T speech recognition: a recording in, its transcript out."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from ts.handler_utils.utils import send_intermediate_predict_response

from alignments import Alignment, Alternatives
from batches import Parts, answer_requests
from device_io import Answer, Row, read_settings, refuse_explanation
from emformer_features import SAMPLE_RATE_HZ
from host_memory import keep_loaded
from load_errors import one_sentence
from measurements import stage
from rnnt_loading import SENTENCEPIECE_FILE, load_archive
from rnnt_recognition import EmformerSettings, Recognizer, Recording
from rnnt_segments import SegmentStream
from rnnt_tokens import (
    describe_tokens,
    find_alternatives,
    group_pieces,
    name_pieces,
    split_path,
    text_of,
    time_pieces,
    tokens_to_text,
)
from scripted_beam_search import MAX_AUDIO_S, ScriptedBeamSearch, is_beam_search
from speech_requests import SpeechRequest, read_request, write_answer
from transcripts import NDJSON, PLAIN, WRITERS, Token, Transcript

# TorchScript profiles and optimises its first runs.
WARM_UPS = 3


class ModelHandler:
    """Transcribes recordings with the TorchScript file of an Emformer RNN-T."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: torch.device | None = None
        self.initialized = False

    @one_sentence(SENTENCEPIECE_FILE)
    def initialize(self, context: Any) -> None:
        """Load the TorchScript file that the manifest names and the pieces, and run them.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        self._settings = read_settings(EmformerSettings, context.model_yaml_config, "handler")
        settings = self._settings
        self.model, self._pieces, self.device, folder = load_archive(context, settings.threads)
        self._search: ScriptedBeamSearch | None = None
        if is_beam_search(self.model):
            self._search = ScriptedBeamSearch(self.model, folder, settings.beam_width)
        else:
            self.recognizer = Recognizer(
                self.model,
                self.device,
                settings.dtype,
                settings.step_max_tokens,
                settings.beam_width,
            )
        for _ in range(WARM_UPS):
            self._answer([SpeechRequest(torch.zeros(SAMPLE_RATE_HZ), PLAIN)])
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one transcript or alignment for each recording of the batch, in order."""
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._answer
        )

    def _parse(self, index: int, row: Row, context: Any) -> SpeechRequest:
        limit_s = self._settings.max_audio_seconds
        if self._search is not None:
            refuse_explanation(context, index)
            limit_s = min(limit_s, MAX_AUDIO_S)
            return read_request(row, context, index, SAMPLE_RATE_HZ, limit_s, (PLAIN,))
        formats = (*WRITERS, NDJSON)
        request = read_request(row, context, index, SAMPLE_RATE_HZ, limit_s, formats)
        if request.media_type != NDJSON:
            return request
        frame_s = self.recognizer.frame_s
        stream = SegmentStream(
            Parts(send_intermediate_predict_response, context, index, NDJSON).tell,
            lambda tokens: describe_tokens(self._pieces, tokens, frame_s),
            round(self._settings.endpoint_silence_s / frame_s),
        )
        return request._replace(stream=stream)

    @torch.inference_mode()
    def _answer(self, requests: Sequence[SpeechRequest]) -> list[Answer]:
        if self._search is not None:
            with stage("model"):
                found = [self._search(request.waveform) for request in requests]
            return [Answer(tokens_to_text(self._pieces, tokens), PLAIN) for tokens in found]
        recordings = [
            self.recognizer.start(request.waveform, keep_encodings=request.explain)
            for request in requests
        ]
        pairs = list(zip(requests, recordings, strict=True))
        while self.recognizer.step(recordings):
            for request, recording in pairs:
                if request.stream:
                    request.stream.tell(recording)
        return [self._write(*pair) for pair in pairs]

    def _write(self, request: SpeechRequest, recording: Recording) -> Answer:
        tokens = recording.best_tokens()
        duration_s = len(request.waveform) / SAMPLE_RATE_HZ
        if request.stream:
            text = text_of(self._pieces, tokens)
            summary = {"text": text, "duration": round(duration_s, 3)}
            return Answer(request.stream.finish(recording, summary), NDJSON)
        words = time_pieces(self._pieces, tokens, self.recognizer.frame_s)
        transcript = Transcript(text_of(self._pieces, tokens), duration_s, words)
        align = functools.partial(self._align, request, recording, transcript)
        return write_answer(request, transcript, align)

    def _align(
        self, request: SpeechRequest, recording: Recording, transcript: Transcript
    ) -> Alignment:
        tokens = recording.best_tokens()
        probabilities, chances = split_path(self.recognizer.find_path(recording), tokens)
        chances_of = dict(zip(tokens, chances, strict=True))

        def alternatives(word: Sequence[Token]) -> Alternatives:
            return find_alternatives(self._pieces, [chances_of[token] for token in word], word)

        return Alignment(
            request.waveform,
            probabilities,
            name_pieces(self._pieces),
            self.recognizer.frame_s,
            transcript,
            group_pieces(self._pieces, tokens),
            alternatives,
        )
