"""Speech recognition with a Wav2Vec2 CTC model."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from speechtext.devices import CPU
from speechtext.measurements import stage
from speechtext.speech.alignments import Alignment, Alternatives, Recognition
from speechtext.speech.costs import SpeechCost, try_recognizer
from speechtext.speech.ctc.alternatives import find_alternatives
from speechtext.speech.ctc.beam import Decode, load_beam_decoder
from speechtext.speech.ctc.emissions import (
    NORMALIZATION_EPSILON,
    SAMPLE_RATE_HZ,
    compute_emissions,
    find_best_path,
    frame_grid,
    group_words,
)
from speechtext.speech.ctc.loading import load_model, name_labels
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.transcripts import Token, Transcript, time_words


class Wav2Vec2Recognizer:
    """Transcribes recordings with a Hugging Face `Wav2Vec2ForCTC` checkpoint."""

    sample_rate_hz = SAMPLE_RATE_HZ

    cost: SpeechCost

    def __init__(
        self, model: Any, processor: Any, settings: Wav2Vec2Settings, decode: Decode
    ) -> None:
        self.model = model
        self.processor = processor
        self._settings = settings
        self._decode = decode
        self._labels = name_labels(processor.tokenizer, model.config.vocab_size)
        self._frame_s = frame_grid(model).stride / SAMPLE_RATE_HZ
        extractor = processor.feature_extractor
        epsilon = getattr(extractor, "normalization_epsilon", NORMALIZATION_EPSILON)
        self._epsilon = epsilon if extractor.do_normalize else None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        settings: Wav2Vec2Settings | None = None,
        device: torch.device = CPU,
    ) -> Self:
        """Return the recogniser of a folder with a checkpoint and its processor, run once.

        Raises `ValueError` or `OSError` with one sentence for what does not fit together.
        """
        settings, folder = settings or Wav2Vec2Settings(), Path(folder)
        model, processor = load_model(folder, settings, device)
        recognizer = cls(model, processor, settings, choose_decoder(settings, processor, folder))
        recognizer.align([torch.zeros(SAMPLE_RATE_HZ)])
        recognizer.cost = try_recognizer(recognizer.transcribe, SAMPLE_RATE_HZ, device)
        return recognizer

    def transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[Transcript]:
        """Return what is said in waveforms of shape (samples,) at 16 kHz, mono, in order."""
        return [each.transcript for each in self.recognize(waveforms)]

    def align(self, waveforms: Sequence[torch.Tensor]) -> list[Alignment]:
        """Return waveforms as the model sees them: tokens and words with frames, alternatives."""
        return [each.align() for each in self.recognize(waveforms)]

    @torch.inference_mode()
    def recognize(self, waveforms: Sequence[torch.Tensor]) -> list[Recognition]:
        """Return the transcript of each waveform, and what its alignment can be made of."""
        settings = self._settings
        with stage("model"):
            emissions = compute_emissions(
                self.model,
                waveforms,
                settings.chunk_length_s,
                settings.stride_length_s,
                self._epsilon,
            )
        with stage("decode"):
            return list(map(self._decode_emission, waveforms, emissions))

    def _decode_emission(self, waveform: torch.Tensor, emission: torch.Tensor) -> Recognition:
        probabilities = emission.softmax(dim=-1)
        tokens = self._decode(probabilities)
        spoken = group_words(tokens, self.processor.tokenizer.word_delimiter_token_id)
        words = time_words(spoken, [self._text(word) for word in spoken], self._frame_s)
        transcript = Transcript(self._text(tokens), len(waveform) / SAMPLE_RATE_HZ, words)
        align = functools.partial(
            Alignment,
            waveform=waveform,
            probabilities=probabilities,
            labels=self._labels,
            frame_s=self._frame_s,
            transcript=transcript,
            words=spoken,
            find_alternatives=functools.partial(self._find_alternatives, probabilities),
        )
        return Recognition(transcript, align)

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


def choose_decoder(settings: Wav2Vec2Settings, processor: Any, folder: Path) -> Decode:
    """Return the decoder that the settings ask for: the best path's, or a beam search."""
    tokenizer = processor.tokenizer
    if settings.decoder == "beam":
        return load_beam_decoder(settings, tokenizer, folder)
    return functools.partial(find_best_path, blank=tokenizer.pad_token_id)
