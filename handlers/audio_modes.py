"""What an archive of a model of waveforms does: its YAML's `mode`, one class each in one table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from transformers import AutoModelForCTC

from audio_requests import (
    FEATURE_WRITERS,
    AudioRequest,
    Form,
    describe_task,
    read_audio_request,
    run_task,
    write_embedding,
)
from batches import JSON, Answer
from device_io import Row, wants_explanation
from load_errors import require_files
from speaker_requests import load_diarizer
from speech_requests import (
    MAX_EXPLAINED_S,
    NDJSON,
    RTTM,
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
)
from speechtext.allowance import Work, run_admitted
from speechtext.errors import RequestError, explanation_unsupported
from speechtext.failures import as_request_error
from speechtext.parameters import read_parameters
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.ctc.word_explanation import (
    draw_word_explanation,
    write_word_explanation,
)
from speechtext.speech.heads.activity import write_json, write_rttm
from speechtext.speech.heads.audio_classification import AudioClassification
from speechtext.speech.heads.base import AudioTask
from speechtext.speech.heads.explanation import draw_explanation, write_explanation
from speechtext.speech.heads.features import HiddenStates
from speechtext.speech.heads.frame_classification import FrameClassification
from speechtext.speech.heads.speaker_embedding import SpeakerEmbedding

DEFAULT_MODE = "ctc"


class AudioMode(Protocol):
    """Loads a model, reads the rows of a batch, and answers those that it could read."""

    settings_class: ClassVar[type[AudioSettings]]
    # That of transformers, which loads the head.
    auto_class: ClassVar[Any]
    network: Any
    description: Mapping[str, Any]
    max_audio_s: float

    def __init__(self, folder: Path, settings: Any, device: torch.device, context: Any) -> None:
        """Load the model of an archive; raises `ValueError` or `OSError`."""

    def read(self, index: int, row: Row, context: Any) -> Any:
        """Return what a row of a batch asks for; raises `RequestError`."""

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answer to each request, in order."""


class Transcription(AudioMode):
    """Transcripts and alignments."""

    settings_class, auto_class = Wav2Vec2Settings, AutoModelForCTC
    media_types = (*TRANSCRIPT_WRITERS, NDJSON)
    explanations: ClassVar = {JSON: write_word_explanation, "image/png": draw_word_explanation}

    def __init__(self, folder: Path, settings: Any, device: torch.device, context: Any) -> None:
        require_files(folder, ["vocab.json|tokenizer.json"])
        self.recognizer = Wav2Vec2Recognizer.load(folder, settings, device)
        self.network = self.recognizer.model
        self._diarizer = load_diarizer(folder, settings, settings.dtype, device)
        most_s = settings.max_audio_seconds
        self.max_audio_s = affordable_seconds(self.recognizer.cost, most_s, context)
        self._offer = SpeechOffer(
            self.recognizer.sample_rate_hz,
            self.max_audio_s,
            self.media_types,
            self.recognizer.choose_hotwords,
            self._diarizer,
            explains_words=True,
        )
        self.description = describe_recognizer(
            self.recognizer.sample_rate_hz,
            self.max_audio_s,
            settings.decoder,
            self.media_types,
            hotwords=settings.decoder == "beam",
            language=settings.language,
            speakers=self._diarizer is not None,
        )

    def read(self, index: int, row: Row, context: Any) -> SpeechRequest:
        """Return what a row of a batch asks for; raises `RequestError`."""
        return read_request(row, context, index, self._offer)

    def answer(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        """Return one transcript or alignment for each request, in order."""
        recognizer = self.recognizer
        costs = SpeechCosts(recognizer.cost, recognizer.hotword_cost, self._diarizer)
        return run_speech(self._recognize, requests, recognizer.sample_rate_hz, costs)

    def _recognize(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        """Return the answers; those of words that are explained come one by one."""
        others = iter(self._transcribe([each for each in requests if not each.target]))
        return [
            self._explain(each, each.target) if each.target else next(others) for each in requests
        ]

    def _explain(self, request: SpeechRequest, target: AudioExplanationParameters) -> Any:
        try:
            found = self.recognizer.explain_word(request.waveform, target)
        except RequestError as error:
            return as_request_error(error)
        return Answer(self.explanations[request.media_type](found), request.media_type)

    def _transcribe(self, requests: Sequence[SpeechRequest]) -> list[Any]:
        if not requests:
            return []
        waveforms = [request.waveform for request in requests]
        hotwords = [request.hotwords for request in requests]
        found = self.recognizer.recognize(waveforms, hotwords, send_segments(requests))
        return write_recognitions(requests, found, self._diarizer)


class TaskMode(AudioMode):
    """What one of the other heads says of a recording."""

    task_class: ClassVar[type[AudioTask]]
    # From what the task answers to a body, by its media type; the first is the default.
    writers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {JSON: lambda found: found}
    # A request may have a second recording, to be compared with the first.
    compares = False

    def __init__(self, folder: Path, settings: Any, device: torch.device, context: Any) -> None:
        self.task = self.task_class.load(folder, settings, device)
        self.network = self.task.network
        most_s = settings.max_audio_seconds
        self.max_audio_s = affordable_seconds(self.task.cost, most_s, context)
        names = self.task.parameters_class.__dataclass_fields__
        read, media_types = self.task.read_parameters, list(self.writers)
        self._predictions = Form(read, names, media_types, self.max_audio_s)
        explainable = self._explanations() is not None
        self.description = describe_task(self.task, settings.mode, self._predictions, explainable)

    def read(self, index: int, row: Row, context: Any) -> AudioRequest:
        """Return what a row of a batch asks for; raises `RequestError`."""
        asked = wants_explanation(context, index)
        form = self._explanations() if asked else self._predictions
        if form is None:
            raise explanation_unsupported()
        return read_audio_request(row, context, index, form, self.compares)

    def answer(self, requests: Sequence[AudioRequest]) -> list[Any]:
        """Return the answer to each request that there is time for; others are to come again."""
        return run_admitted(self._run, requests, list(map(self._work, requests)))

    def _run(self, requests: Sequence[AudioRequest]) -> list[Any]:
        plain = [each for each in requests if not each.explain]
        predictions = iter(run_task(self.task, plain, self._write))
        return [self._explain(each) if each.explain else next(predictions) for each in requests]

    def _work(self, request: AudioRequest) -> Work:
        return self.task.cost.measure(request.duration_s)

    def _write(self, request: AudioRequest, found: Sequence[Any]) -> Answer:
        return Answer(self.writers[request.media_type](found[0]), request.media_type)

    def _explanations(self) -> Form | None:
        """Return what requests for explanations may ask for, None where there are none."""
        return None

    def _explain(self, request: AudioRequest) -> Answer | RequestError:
        raise explanation_unsupported()


class AudioClassificationMode(TaskMode):
    """Labels with scores, as the pipeline "audio-classification" gives them."""

    task_class = AudioClassification
    settings_class, auto_class = AudioClassification.settings_class, AudioClassification.auto_class
    task: AudioClassification
    explanations: ClassVar = {JSON: write_explanation, "image/png": draw_explanation}

    def _explanations(self) -> Form:
        names = AudioExplanationParameters.__dataclass_fields__
        read = partial(read_parameters, AudioExplanationParameters, defaults={})
        return Form(read, names, list(self.explanations), min(self.max_audio_s, MAX_EXPLAINED_S))

    def _work(self, request: AudioRequest) -> Work:
        work = super()._work(request)
        if not request.explain:
            return work
        passes = request.parameters.passes(len(request.waveforms[0]))
        return work._replace(cost_s=work.cost_s * passes)

    def _explain(self, request: AudioRequest) -> Answer | RequestError:
        try:
            found = self.task.explain(request.waveforms[0], request.parameters)
        except RequestError as error:
            # The others of its batch are not run again.
            return as_request_error(error)
        return Answer(self.explanations[request.media_type](found), request.media_type)


class FrameClassificationMode(TaskMode):
    """Segments in which labels, such as speakers, are active."""

    task_class = FrameClassification
    settings_class, auto_class = FrameClassification.settings_class, FrameClassification.auto_class
    writers: ClassVar = {JSON: write_json, RTTM: write_rttm}


class SpeakerEmbeddingMode(TaskMode):
    """A voice as a vector; of two recordings, how alike their voices are."""

    task_class = SpeakerEmbedding
    settings_class, auto_class = SpeakerEmbedding.settings_class, SpeakerEmbedding.auto_class
    task: SpeakerEmbedding
    compares = True

    def __init__(self, folder: Path, settings: Any, device: torch.device, context: Any) -> None:
        super().__init__(folder, settings, device, context)
        self._name = str(context.manifest["model"].get("modelName", ""))

    def _write(self, request: AudioRequest, found: Sequence[Any]) -> Answer:
        one, *others = found
        said = self.task.compare(one, *others) if others else write_embedding(one, self._name)
        return Answer(said, request.media_type)


class FeaturesMode(TaskMode):
    """Hidden states, as JSON or safetensors."""

    task_class = HiddenStates
    settings_class, auto_class = HiddenStates.settings_class, HiddenStates.auto_class
    writers = FEATURE_WRITERS


MODES: Mapping[str, type[AudioMode]] = {
    DEFAULT_MODE: Transcription,
    "audio_classification": AudioClassificationMode,
    "frame_classification": FrameClassificationMode,
    "speaker_embedding": SpeakerEmbeddingMode,
    "features": FeaturesMode,
}


def find_mode(config: Mapping[str, Any] | None) -> type[AudioMode]:
    """Return the class of a YAML's mode; raises `ValueError` where there is none."""
    section = (config or {}).get("handler") or {}
    mode = section.get("mode", DEFAULT_MODE) if isinstance(section, Mapping) else DEFAULT_MODE
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"handler.mode: expected one of {', '.join(MODES)}, got {mode!r}.")
    return MODES[mode]
