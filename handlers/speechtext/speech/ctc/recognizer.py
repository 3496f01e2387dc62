"""Speech recognition with a CTC model: Wav2Vec2 and the families that are built alike."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from speechtext.devices import CPU
from speechtext.measurements import stage
from speechtext.speech.alignments import Alignment, Alternatives, Recognition
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Chunk, plan_chunks
from speechtext.speech.costs import SpeechCost, try_recognizer
from speechtext.speech.ctc.alternatives import WORD_START, find_alternatives
from speechtext.speech.ctc.beam import load_beam_decoder, load_biasing
from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.ctc.loading import find_delimiter, load_model, name_labels
from speechtext.speech.ctc.searches import Decode, choose_searches
from speechtext.speech.ctc.segments import (
    BestPathSegments,
    SegmentLimits,
    SegmentTeller,
)
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.ctc.word_explanation import WordExplanation, explain_word
from speechtext.speech.frame_models import FrameModel, compute_frames, compute_stretch
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.hotwords import Biasing, HotwordParameters, hotwords_unsupported
from speechtext.speech.transcripts import (
    Segment,
    SegmentListener,
    Token,
    Transcript,
    time_words,
)

# Words whose spelling is kept.
WORDS_KEPT = 10_000


class Wav2Vec2Recognizer:
    """Transcribes recordings with a Hugging Face checkpoint for CTC."""

    sample_rate_hz = SAMPLE_RATE_HZ

    cost: SpeechCost
    hotword_cost: SpeechCost | None = None

    def __init__(
        self,
        model: Any,
        processor: Any,
        frame_model: FrameModel,
        settings: Wav2Vec2Settings,
        decode: Decode,
        biasing: Biasing | None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.frame_model = frame_model
        self._settings = settings
        self._decode = decode
        self._biasing = biasing
        self._tokenizer = processor.tokenizer
        # Tokenizers take their time for each letter, and words come again and again.
        self._decode_word = functools.lru_cache(WORDS_KEPT)(self._decode_labels)
        self._labels = name_labels(processor.tokenizer, model.config.vocab_size)
        self._blank = processor.tokenizer.pad_token_id
        self._delimiter = find_delimiter(processor.tokenizer)
        self._starts = frozenset(
            label for label, name in enumerate(self._labels) if name.startswith(WORD_START)
        )
        self._frame_s = frame_model.encoder.grid.frame_s
        self._limits = SegmentLimits(
            round(settings.endpoint_silence_s / self._frame_s),
            round(settings.chunk_length_s / self._frame_s),
        )

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
        model, processor, frame_model = load_model(folder, settings, device)
        tokenizer = processor.tokenizer
        decode = choose_decoder(settings, tokenizer, folder)
        biasing = load_biasing(settings, tokenizer) if settings.decoder == "beam" else None
        recognizer = cls(model, processor, frame_model, settings, decode, biasing)
        recognizer.align([torch.zeros(SAMPLE_RATE_HZ)])
        recognizer.cost = try_recognizer(recognizer.transcribe, SAMPLE_RATE_HZ, device)
        if biasing:
            search_for = functools.partial(recognizer.recognize, hotwords=[biasing.probe()])
            recognizer.hotword_cost = try_recognizer(search_for, SAMPLE_RATE_HZ, device)
        return recognizer

    def choose_hotwords(self, asked: HotwordParameters) -> HotwordScores | None:
        """Return the hotwords that are searched for, None for none; raises `RequestError` 422."""
        if self._biasing is None:
            if asked.ask():
                raise hotwords_unsupported("this archive decodes greedily; set decoder: beam")
            return None
        return self._biasing.choose(asked)

    def transcribe(self, waveforms: Sequence[torch.Tensor]) -> list[Transcript]:
        """Return the transcripts of waveforms of shape (samples,) at 16 kHz, mono, in order."""
        return [each.transcript for each in self.recognize(waveforms)]

    def align(self, waveforms: Sequence[torch.Tensor]) -> list[Alignment]:
        """Return waveforms as the model sees them: tokens and words with frames, alternatives."""
        return [each.align() for each in self.recognize(waveforms)]

    @torch.inference_mode()
    def recognize(
        self,
        waveforms: Sequence[torch.Tensor],
        hotwords: Sequence[HotwordScores | None] | None = None,
        on_segment: SegmentListener | None = None,
    ) -> list[Recognition]:
        """Return the transcript of each waveform, and what its alignment can be made of.

        `hotwords` are those of each waveform, from `choose_hotwords`, by default the settings'.
        `on_segment` gets segments, which silences end and which are no longer than a window: of the
        best path as soon as each is certain, of a search, which weighs the whole, at the end.
        """
        if hotwords is None:
            hotwords = [self.choose_hotwords(HotwordParameters())] * len(waveforms)
        teller = SegmentTeller(on_segment, self._write_segment) if on_segment else None
        emissions = self._compute_emissions(waveforms, teller)
        with stage("decode"):
            probabilities = [emission.softmax(dim=-1) for emission in emissions]
            tokens = self._decode(probabilities, hotwords)
            found = list(map(self._read_tokens, waveforms, probabilities, tokens))
        if teller and self._biasing:
            for index, (_, words) in enumerate(found):
                teller.tell(index, self._limits.split(words))
        return [recognition for recognition, _ in found]

    def explain_word(
        self, waveform: torch.Tensor, asked: AudioExplanationParameters
    ) -> WordExplanation:
        """Return which stretches of a waveform of shape (samples,) at 16 kHz a word depends on.

        Raises `ImpossibleRequestError` for a target that is no word of the transcript, and
        `DeadlineError`.
        """
        (recognition,) = self.recognize([waveform])
        alignment, chunks = recognition.align(), self._plan_chunks(len(waveform))
        words, tokens = alignment.transcript.words, alignment.words
        return explain_word(self.frame_model, waveform, chunks, words, tokens, asked)

    def count_chunks(self, samples: int) -> int:
        """Return into how many chunks a waveform of so many samples is cut."""
        return len(self._plan_chunks(samples))

    @torch.inference_mode()
    def compute_stretch(self, waveform: torch.Tensor, stretch: slice) -> torch.Tensor:
        """Return the emission of a stretch of a waveform, shape (frames, labels), float32.

        `stretch` is the chunks in it. Machines that share a long recording compute one each; put
        together they are the whole recording's. Raises `NonFiniteOutputError`.
        """
        chunks = self._plan_chunks(len(waveform))[stretch]
        return compute_stretch(self.frame_model, waveform, chunks)

    @torch.inference_mode()
    def transcribe_emissions(
        self, emissions: Sequence[torch.Tensor], samples: Sequence[int]
    ) -> list[Transcript]:
        """Return what the emissions of whole waveforms of so many samples say."""
        probabilities = [emission.softmax(dim=-1) for emission in emissions]
        hotwords = [self.choose_hotwords(HotwordParameters())] * len(emissions)
        tokens = self._decode(probabilities, hotwords)
        return [self._write_transcript(*each)[0] for each in zip(tokens, samples, strict=True)]

    def _plan_chunks(self, samples: int) -> list[Chunk]:
        return plan_chunks(self.frame_model.encoder.grid, samples, self._settings.windows)

    def _compute_emissions(
        self, waveforms: Sequence[torch.Tensor], teller: SegmentTeller | None
    ) -> list[torch.Tensor]:
        """Return the logits of each waveform; tell the segments of best paths on the way."""
        kinds = self._blank, self._delimiter, self._limits, self._starts
        paths = [BestPathSegments(*kinds) for _ in waveforms]

        def follow(index: int, logits: torch.Tensor) -> None:
            if teller:
                teller.tell(index, paths[index].take_ended(logits.softmax(dim=-1)))

        with stage("model"):
            listener = follow if teller and not self._biasing else None
            windows = self._settings.windows
            emissions = compute_frames(self.frame_model, waveforms, windows, listener)
        if teller and listener:
            for index, path in enumerate(paths):
                teller.tell(index, path.take_rest())
        return emissions

    def _write_segment(self, words: Sequence[Sequence[Token]]) -> Segment:
        texts = list(map(self._word_text, words))
        return Segment(" ".join(texts), time_words(words, texts, self._frame_s))

    def _read_tokens(
        self, waveform: torch.Tensor, probabilities: torch.Tensor, tokens: Sequence[Token]
    ) -> tuple[Recognition, list[list[Token]]]:
        """Return what tokens say, and those of its words."""
        transcript, spoken = self._write_transcript(tokens, len(waveform))
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
        return Recognition(transcript, align), spoken

    def _write_transcript(
        self, tokens: Sequence[Token], samples: int
    ) -> tuple[Transcript, list[list[Token]]]:
        """Return what the tokens of a waveform of so many samples say, and those of its words."""
        spoken = group_words(tokens, self._delimiter, self._starts)
        words = time_words(spoken, list(map(self._word_text, spoken)), self._frame_s)
        return Transcript(self._text(tokens), samples / SAMPLE_RATE_HZ, words), spoken

    def _find_alternatives(
        self, probabilities: torch.Tensor, word: Sequence[Token]
    ) -> Alternatives:
        frames = probabilities[word[0].start : word[-1].stop]
        return find_alternatives(frames, self._labels, self._blank, self._delimiter)

    def _text(self, tokens: Sequence[Token]) -> str:
        return self._decode_labels(tuple(token.label for token in tokens))

    def _word_text(self, tokens: Sequence[Token]) -> str:
        return self._decode_word(tuple(token.label for token in tokens))

    def _decode_labels(self, labels: tuple[int, ...]) -> str:
        text: str = self._tokenizer.decode(labels, group_tokens=False)
        return text.strip()


def choose_decoder(settings: Wav2Vec2Settings, tokenizer: Any, folder: Path) -> Decode:
    """Return the decoder that the settings ask for: the best path's, or a beam search."""
    if settings.decoder == "beam":
        load = functools.partial(load_beam_decoder, settings, tokenizer, folder)
        return choose_searches(load, settings.beam_processes)
    # It takes no hotwords: `choose_hotwords` refuses them.
    blank = tokenizer.pad_token_id
    return lambda probabilities, _: [find_best_path(each, blank) for each in probabilities]
