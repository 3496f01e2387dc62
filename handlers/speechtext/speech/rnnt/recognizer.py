"""Speech recognition with an Emformer RNN-T."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from speechtext.devices import CPU, DtypeName
from speechtext.settings import STRICT
from speechtext.speech.alignments import Alignment, Recognition
from speechtext.speech.costs import SpeechCost, try_recognizer
from speechtext.speech.diarization import SpeakerSettings
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.hotwords import (
    Biasing,
    HotwordBoost,
    HotwordParameters,
    HotwordPhrases,
    hotwords_unsupported,
)
from speechtext.speech.rnnt.features import SAMPLE_RATE_HZ
from speechtext.speech.rnnt.hotword_search import PieceScores
from speechtext.speech.rnnt.loading import (
    MODEL_FILE,
    check_beam_width,
    is_beam_search,
    load_transducer,
    load_vocabulary,
)
from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.rnnt.scripted_beam_search import (
    ScriptedBeamSearch,
)
from speechtext.speech.rnnt.segments import SegmentTracker
from speechtext.speech.rnnt.transducer import Quantization, Transducer
from speechtext.speech.rnnt.vocabulary import WORD_START, Vocabulary, split_path
from speechtext.speech.transcripts import SegmentListener, Token, Transcript


@settings_dataclass(frozen=True, config=STRICT)
class EmformerSettings(SpeakerSettings):
    """How an Emformer RNN-T recognises: the `handler` keys of its archive's YAML."""

    dtype: DtypeName = "float32"
    quantization: Quantization | None = None
    threads: int | None = None
    language: str | None = None
    beam_width: Annotated[int, KeyOptions(ge=1)] | None = None
    hotwords: HotwordPhrases | None = None
    hotword_boost: HotwordBoost = 0.25
    step_max_tokens: Annotated[int, KeyOptions(ge=1)] = 100
    max_audio_seconds: float = 3600.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8

    def __post_init__(self) -> None:
        if self.hotwords and not self.beam_width:
            raise ValueError("expected a beam_width for hotwords")


class EmformerRecognizer:
    """Transcribes recordings with the TorchScript file of an Emformer RNN-T."""

    sample_rate_hz = SAMPLE_RATE_HZ
    cost: SpeechCost
    hotword_cost: SpeechCost | None = None
    has_words = True
    most_audio_s = math.inf

    def __init__(
        self, transducer: Transducer, vocabulary: Vocabulary, settings: EmformerSettings
    ) -> None:
        self.model = transducer.model
        self.transducer = transducer
        self._vocabulary = vocabulary
        self._silent_frames = round(settings.endpoint_silence_s / transducer.frame_s)
        self._pieces = vocabulary.texts()
        self.biasing = (
            Biasing(vocabulary.spell_word, WORD_START, settings.hotwords, settings.hotword_boost)
            if settings.beam_width
            else None
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        settings: EmformerSettings | None = None,
        device: torch.device = CPU,
        file: str = MODEL_FILE,
    ) -> Self:
        """Return the recogniser of a folder with a TorchScript file and its pieces, run.

        Raises `ValueError` with one sentence for what does not fit together.
        """
        recognizer = load_recognizer(Path(folder), settings or EmformerSettings(), device, file)
        if not isinstance(recognizer, cls):
            raise ValueError(f"{file}: expected frames and probabilities, got an RNNTBeamSearch.")
        return recognizer

    def choose_hotwords(self, asked: HotwordParameters) -> HotwordScores | None:
        """Return the hotwords that are searched for, None for none; raises `RequestError` 422."""
        if self.biasing is None:
            if asked.ask():
                raise hotwords_unsupported("this archive decodes greedily; set beam_width")
            return None
        return self.biasing.choose(asked)

    def transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[Transcript]:
        """Return what is said in waveforms of shape (samples,) at 16 kHz, mono, in order."""
        return [each.transcript for each in self.recognize(waveforms)]

    def align(self, waveforms: Sequence[torch.Tensor]) -> list[Alignment]:
        """Return waveforms as the model sees them: tokens and words with frames, alternatives."""
        aligned = [True] * len(waveforms)
        return [each.align() for each in self.recognize(waveforms, aligned)]

    def recognize(
        self,
        waveforms: Sequence[torch.Tensor],
        aligned: Sequence[bool] = (),
        on_segment: SegmentListener | None = None,
        hotwords: Sequence[HotwordScores | None] | None = None,
    ) -> list[Recognition]:
        """Return the transcript of each waveform, and the alignment of those to be `aligned`.

        `on_segment` gets the segments that silences end, as soon as each is certain. `hotwords` are
        those of each waveform, from `choose_hotwords`, by default the settings'.
        """
        kept = aligned or [False] * len(waveforms)
        if hotwords is None:
            hotwords = [self.choose_hotwords(HotwordParameters())] * len(waveforms)
        recordings = [
            self.transducer.start(waveform, True, keep, self._score_pieces(own))
            for waveform, keep, own in zip(waveforms, kept, hotwords, strict=True)
        ]
        if on_segment is None:
            self.transducer.recognize(recordings)
        else:
            self._recognize_in_segments(recordings, on_segment)
        return list(map(self._write, waveforms, recordings))

    def _score_pieces(self, hotwords: HotwordScores | None) -> PieceScores | None:
        return PieceScores(hotwords, self._pieces) if hotwords else None

    def _recognize_in_segments(
        self, recordings: Sequence[Recording], on_segment: SegmentListener
    ) -> None:
        trackers = [SegmentTracker(self._silent_frames) for _ in recordings]
        counts = [0] * len(recordings)

        def tell(index: int, segments: Sequence[Sequence[Token]]) -> None:
            for tokens in segments:
                segment = self._vocabulary.segment(tokens, self.transducer.frame_s)
                on_segment(index, counts[index], segment)
                counts[index] += 1

        while self.transducer.step(recordings):
            for index, (tracker, recording) in enumerate(zip(trackers, recordings, strict=True)):
                tell(index, tracker.take_ended(recording))
        for index, (tracker, recording) in enumerate(zip(trackers, recordings, strict=True)):
            tell(index, tracker.take_rest(recording))

    def _write(self, waveform: torch.Tensor, recording: Recording) -> Recognition:
        tokens = recording.best_tokens()
        words = self._vocabulary.time_words(tokens, self.transducer.frame_s)
        text = self._vocabulary.text(tokens)
        transcript = Transcript(text, len(waveform) / SAMPLE_RATE_HZ, words)
        align = functools.partial(self._align, waveform, recording, transcript)
        return Recognition(transcript, align)

    def _align(
        self, waveform: torch.Tensor, recording: Recording, transcript: Transcript
    ) -> Alignment:
        tokens = recording.best_tokens()
        frames, chosen = split_path(self.transducer.find_path(recording), tokens)
        chosen_from = dict(zip(tokens, chosen, strict=True))
        return Alignment(
            waveform=waveform,
            probabilities=frames,
            labels=self._vocabulary.names(),
            frame_s=self.transducer.frame_s,
            transcript=transcript,
            words=self._vocabulary.group_words(tokens),
            find_alternatives=lambda word: self._vocabulary.find_alternatives(
                [chosen_from[token] for token in word], word
            ),
        )


def load_recognizer(
    folder: Path, settings: EmformerSettings, device: torch.device, file: str
) -> EmformerRecognizer | ScriptedBeamSearch:
    """Return what recognises with a TorchScript file, whichever of the two kinds it is, run.

    Raises `ValueError` with one sentence for what does not fit together.
    """
    vocabulary = load_vocabulary(folder)
    model = load_transducer(folder / file, device, vocabulary)
    check_beam_width(settings.beam_width, vocabulary)
    if is_beam_search(model):
        if settings.hotwords or settings.quantization:
            name = "hotwords" if settings.hotwords else "quantization"
            raise ValueError(f"handler.{name}: {file} has a search of torchaudio's without any.")
        search = ScriptedBeamSearch(model, vocabulary, folder, settings.beam_width)
        search.transcribe([torch.zeros(SAMPLE_RATE_HZ)])
        search.cost = try_recognizer(search.transcribe, SAMPLE_RATE_HZ, device, power=2)
        return search
    transducer = Transducer(
        model,
        device,
        settings.dtype,
        settings.step_max_tokens,
        settings.beam_width,
        settings.quantization,
    )
    transducer.warm_up()
    recognizer = EmformerRecognizer(transducer, vocabulary, settings)
    recognizer.align([torch.zeros(SAMPLE_RATE_HZ)])
    recognizer.cost = try_recognizer(recognizer.transcribe, SAMPLE_RATE_HZ, device)
    if recognizer.biasing:
        search_for = functools.partial(recognizer.recognize, hotwords=[recognizer.biasing.probe()])
        recognizer.hotword_cost = try_recognizer(search_for, SAMPLE_RATE_HZ, device)
    return recognizer
