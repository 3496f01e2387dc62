"""Live speech: sessions of an Emformer RNN-T.

`LiveRecognizer.begin` opens a `LiveSession`, which takes the audio chunk by chunk, cut anywhere,
and tells what was said so far. Chunks of several sessions go through the model together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass as settings_dataclass

from speechtext.devices import CPU, DtypeName
from speechtext.settings import STRICT
from speechtext.speech.costs import SpeechCost, try_recognizer
from speechtext.speech.diarization import Diarizer, LiveSpeakers, SpeakerSettings
from speechtext.speech.live_audio import LiveAudio
from speechtext.speech.pcm import PcmFormat
from speechtext.speech.rnnt.features import SAMPLE_RATE_HZ
from speechtext.speech.rnnt.loading import (
    MODEL_FILE,
    is_beam_search,
    load_transducer,
    load_vocabulary,
)
from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.rnnt.segments import find_segment_ends
from speechtext.speech.rnnt.transducer import Quantization, Transducer
from speechtext.speech.rnnt.vocabulary import Vocabulary
from speechtext.speech.transcripts import Segment

# Kept from piece to piece of a speaker who never pauses, to recognise the voice.
MOST_HEARD_SAMPLES = 60 * SAMPLE_RATE_HZ


@settings_dataclass(frozen=True, config=STRICT)
class LiveSettings(SpeakerSettings):
    """How live speech is recognised: the `handler` keys of a live archive's YAML."""

    dtype: DtypeName = "float32"
    quantization: Quantization | None = None
    threads: int | None = None
    step_max_tokens: Annotated[int, KeyOptions(ge=1)] = 100
    max_audio_seconds: float = 3600.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8
    max_sessions: Annotated[int, KeyOptions(ge=1)] = 8


@dataclass(frozen=True)
class LiveTranscript:
    """What a session said so far: `final` for good since the last one, `partial` as it seems.

    `text` is the whole, once the session has ended.
    """

    partial: Segment
    final: Segment
    duration_s: float
    text: str | None = None


class LiveRecognizer:
    """Transcribes what people say while they say it."""

    cost: SpeechCost

    def __init__(
        self, transducer: Transducer, vocabulary: Vocabulary, settings: LiveSettings
    ) -> None:
        self._transducer = transducer
        self.vocabulary = vocabulary
        self._max_audio_s = settings.max_audio_seconds
        self.frame_s = transducer.frame_s
        self.silent_frames = round(settings.endpoint_silence_s / transducer.frame_s)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        settings: LiveSettings | None = None,
        device: torch.device = CPU,
        file: str = MODEL_FILE,
    ) -> Self:
        """Return the recogniser of a folder with a TorchScript file and its pieces, run.

        Raises `ValueError` with one sentence for what does not fit together.
        """
        folder, settings = Path(folder), settings or LiveSettings()
        vocabulary = load_vocabulary(folder)
        model = load_transducer(folder / file, device, vocabulary)
        if is_beam_search(model):
            raise ValueError(
                "Expected the TorchScript file that make archive writes, got an RNNTBeamSearch, "
                "which cannot carry on."
            )
        limits = settings.step_max_tokens, None
        transducer = Transducer(model, device, settings.dtype, *limits, settings.quantization)
        transducer.warm_up()
        recognizer = cls(transducer, vocabulary, settings)
        recognizer.cost = try_recognizer(recognizer.recognize_waveforms, SAMPLE_RATE_HZ, device)
        return recognizer

    def begin(
        self, pcm: PcmFormat | None = None, diarizer: Diarizer | None = None
    ) -> "LiveSession":
        """Open a session of bare samples, or of a WAV file whose header comes first.

        With a `diarizer`, final words have speakers.
        """
        speakers = LiveSpeakers(diarizer) if diarizer else None
        return LiveSession(self, LiveAudio(SAMPLE_RATE_HZ, self._max_audio_s, pcm), speakers)

    def start_recording(self) -> Recording:
        """Return a recording of nothing yet."""
        return self._transducer.start(torch.empty(0), ended=False)

    def recognize_waveforms(self, waveforms: Sequence[torch.Tensor]) -> None:
        """Recognise whole recordings of shape (samples,), of which nothing is told."""
        self._transducer.recognize([self._transducer.start(each) for each in waveforms])

    def recognize(self, sessions: Sequence["LiveSession"]) -> None:
        """Recognise what several sessions have received, together."""
        self._transducer.recognize([session.recording for session in sessions])


class LiveSession:
    """Somebody who speaks: the audio so far and its recognition."""

    def __init__(
        self, recognizer: LiveRecognizer, audio: LiveAudio, speakers: LiveSpeakers | None = None
    ) -> None:
        self._recognizer = recognizer
        self._audio = audio
        self._speakers = speakers
        # What was heard last, for the voices in it.
        self._heard = torch.empty(0)
        self._final_tokens = 0
        self.recording = recognizer.start_recording()

    def accept(self, audio: bytes) -> LiveTranscript:
        """Return what was said after another chunk; raises `RequestError` as `receive` does."""
        return self._advance(audio, ends=False)

    def finish(self, audio: bytes = b"") -> LiveTranscript:
        """Return what was said in all, after a last chunk."""
        return self._advance(audio, ends=True)

    def _advance(self, audio: bytes, ends: bool) -> LiveTranscript:
        self.receive(audio, ends)
        self._recognizer.recognize([self])
        return self.tell(ends)

    def receive(self, audio: bytes, ends: bool) -> float:
        """Take a chunk, to be recognised with those of others; return its seconds.

        Raises `RequestError` for audio that cannot be read, or too much of it: the session is of no
        use then.
        """
        parts = [self._audio.push(audio)]
        if ends:
            parts.append(self._audio.end())
        self.recording.samples = torch.cat([self.recording.samples, *parts])
        self.recording.ended = ends
        if self._speakers:
            self._heard = torch.cat([self._heard, *parts])
        return sum(map(len, parts)) / SAMPLE_RATE_HZ

    def tell(self, ends: bool) -> LiveTranscript:
        """Return what was said since the last one, once it is recognised.

        Where that fails, the next one tells it.
        """
        recognizer, frames = self._recognizer, self.recording.frames
        tokens, first = self.recording.best_tokens(), self._final_tokens
        segment_ends = find_segment_ends(tokens, first, frames, recognizer.silent_frames)
        if ends:
            segment_ends.append(len(tokens))
        stop = segment_ends[-1] if segment_ends else first
        final, partial = (
            recognizer.vocabulary.segment(each, recognizer.frame_s)
            for each in (tokens[first:stop], tokens[stop:])
        )
        text = recognizer.vocabulary.text(tokens) if ends else None
        named = self._name(final)
        # Only now: naming may fail, and needs all that was heard since the last one.
        self._final_tokens = stop
        self._heard = self._heard[-MOST_HEARD_SAMPLES:]
        return LiveTranscript(partial, named, self._audio.duration_s, text)

    def _name(self, final: Segment) -> Segment:
        """Return a segment with a speaker for each word, where they are told apart."""
        if self._speakers is None or not final.words:
            return final
        start_s = self._audio.duration_s - len(self._heard) / SAMPLE_RATE_HZ
        words = self._speakers.name_words(final.words, self._heard, start_s)
        return replace(final, words=words)
