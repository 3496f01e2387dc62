"""Trains a small Emformer transducer (RNN-T) to understand the little world of voice commands.

The network is torchaudio's `emformer_rnnt_model` with a sixtieth of its usual parameters, and
reads the features of torchaudio's own bundle: 80 log-mel bands per 10 ms, normalised by statistics.

An auxiliary CTC head on the encoder finds the alignments early; it is not part of the result.
"""

import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import torchaudio
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from demo_models import command_grammar, speech_corpus
from demo_models.augmentation import augment
from demo_models.espeak import Waveform, to_float
from demo_models.speech_corpus import Utterance
from demo_models.speech_training import Recipe, batches, fit, report_errors, shortest_first
from speechtext.speech.rnnt.features import (
    MEL_BINS,
    RIGHT_CONTEXT_FRAMES,
    LogMelFeatures,
    whole_features,
)

SEED = 1
RECIPE = Recipe(steps=5_000, peak_learning_rate=1.5e-3, max_gradient_norm=2.0)
BATCH_DURATION_S = 60.0
SHORTEST_FIRST_BATCHES = 100
DIGITS_FIRST_BATCHES = 400
CTC_WEIGHT = 0.5

TIME_REDUCTION = 4
SENTENCE_PIECES = 80
LONGEST_PIECE = 3
MOST_SYMBOLS_PER_FRAME = 4


def network_arguments(blank: int) -> dict[str, Any]:
    """Return the keyword arguments of `torchaudio.models.emformer_rnnt_model`; blank is last."""
    return {
        "input_dim": MEL_BINS,
        "encoding_dim": 192,
        "num_symbols": blank + 1,
        "segment_length": 16,
        "right_context_length": RIGHT_CONTEXT_FRAMES,
        "time_reduction_input_dim": 40,
        "time_reduction_stride": TIME_REDUCTION,
        "transformer_num_heads": 4,
        "transformer_ffn_dim": 512,
        "transformer_num_layers": 4,
        "transformer_dropout": 0.0,
        "transformer_activation": "gelu",
        "transformer_left_context_length": 10,
        "transformer_max_memory_size": 0,
        "transformer_weight_init_scale_strategy": "depthwise",
        "transformer_tanh_on_mem": True,
        "symbol_embedding_dim": 96,
        "num_lstm_layers": 1,
        "lstm_layer_norm": True,
        "lstm_layer_norm_epsilon": 1e-3,
        "lstm_dropout": 0.1,
    }


def train_sentence_pieces(seed: int) -> bytes:
    """Return a SentencePiece model of pieces of at most three characters.

    Short pieces begin and end a word differently, so that "one one" cannot merge into "one".
    """
    rng = random.Random(seed)
    drawers = [command_grammar.command] * 3 + [command_grammar.word_string]
    sentences = (rng.choice(drawers)(rng) for _ in range(10_000))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=SENTENCE_PIECES,
        max_sentencepiece_length=LONGEST_PIECE,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def normalised_features(waveforms: Sequence[Waveform]) -> LogMelFeatures:
    """Return the acoustic front end with the statistics of `waveforms`."""
    plain = LogMelFeatures(torch.zeros(MEL_BINS), torch.ones(MEL_BINS))
    frames = torch.cat([features_of(plain, waveform) for waveform in waveforms])
    return LogMelFeatures(frames.mean(0), 1 / frames.std(0))


def features_of(front_end: LogMelFeatures, waveform: Waveform) -> Tensor:
    """Return features of shape (frames, mel bands), without the right context behind them."""
    return whole_features(front_end, torch.from_numpy(waveform))[:-RIGHT_CONTEXT_FRAMES]


def stack_features(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad rows to whole reduced frames and stack them with the right context behind.

    Returns (batch, frames + right context, mel bands) and the frames of each row without context.
    """
    whole = [nn.functional.pad(row, (0, 0, 0, -len(row) % TIME_REDUCTION)) for row in rows]
    stacked = pad_sequence(whole, batch_first=True)
    lengths = torch.tensor([len(row) for row in whole], dtype=torch.int32)
    return nn.functional.pad(stacked, (0, 0, 0, RIGHT_CONTEXT_FRAMES)), lengths


class EmformerTrainee:
    """The transducer, its text pieces and features, and the folder they are saved to."""

    def __init__(
        self,
        output_dir: Path,
        training: Sequence[Utterance],
        development: Mapping[str, Sequence[Utterance]],
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self._development = development
        self._output_dir = output_dir
        self._rng = np.random.default_rng(seed)
        self._piece_model = train_sentence_pieces(seed)
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self._piece_model)
        self._blank = self._pieces.get_piece_size()
        every = max(1, len(training) // 1000)
        heard = [augment(u.waveform, self._rng) for u in training[::every]]
        self._front_end = normalised_features(heard)
        self._arguments = network_arguments(self._blank)
        self.transducer = torchaudio.models.emformer_rnnt_model(**self._arguments)
        self._ctc_head = nn.Linear(self._arguments["encoding_dim"], self._blank + 1)
        self.network = nn.ModuleList([self.transducer, self._ctc_head])

    def loss(self, batch: Sequence[Utterance]) -> Tensor:
        """Return the transducer loss plus a share of the auxiliary CTC loss, both per piece."""
        rows = [features_of(self._front_end, augment(u.waveform, self._rng)) for u in batch]
        pieces = [torch.tensor(self._pieces.encode(u.text), dtype=torch.int32) for u in batch]
        targets = pad_sequence(pieces, batch_first=True)
        target_lengths = torch.tensor([len(row) for row in pieces], dtype=torch.int32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encodings, lengths = self.transducer.transcribe(*stack_features(rows))
        transducer_loss = self._transducer_loss(encodings, lengths, targets, target_lengths)
        return transducer_loss + CTC_WEIGHT * nn.functional.ctc_loss(
            self._ctc_head(encodings.float()).log_softmax(-1).transpose(0, 1),
            targets.long(),
            lengths.long(),
            target_lengths.long(),
            blank=self._blank,
            zero_infinity=True,
        )

    def _transducer_loss(
        self, encodings: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        history = nn.functional.pad(targets, (1, 0), value=self._blank)
        predictions, _, _ = self.transducer.predict(history, target_lengths + 1, None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # The joint tensor (batch, frames, pieces, encoding) is the largest by far: halve it.
            logits, _, _ = self.transducer.join(
                encodings.bfloat16(), lengths, predictions.bfloat16(), target_lengths + 1
            )
        losses = torchaudio.functional.rnnt_loss(
            logits.float(), targets, lengths, target_lengths, blank=self._blank, reduction="none"
        )
        per_piece: Tensor = losses / target_lengths
        return per_piece.mean()

    def transcribe(self, utterances: Sequence[Utterance]) -> list[str]:
        """Recognise greedily, a batch at a time in the encoder and one by one in the decoder."""
        transcripts = []
        for start in range(0, len(utterances), 16):
            batch = utterances[start:][:16]
            rows = [features_of(self._front_end, to_float(u.waveform)) for u in batch]
            encodings, lengths = self.transducer.transcribe(*stack_features(rows))
            for encoding, length in zip(encodings, lengths.tolist(), strict=True):
                transcripts.append(self._pieces.decode(self._decode_greedy(encoding[:length])))
        return transcripts

    def _decode_greedy(self, encoding: Tensor) -> list[int]:
        """Take the likeliest symbol, a few per frame at most, until it is the blank."""
        one = torch.tensor([1], dtype=torch.int32)
        symbols: list[int] = []
        prediction, _, state = self.transducer.predict(torch.tensor([[self._blank]]), one, None)
        for frame in encoding:
            for _ in range(MOST_SYMBOLS_PER_FRAME):
                logits, _, _ = self.transducer.join(frame[None, None], one, prediction, one)
                symbol = int(logits.argmax())
                if symbol == self._blank:
                    break
                symbols.append(symbol)
                prediction, _, state = self.transducer.predict(torch.tensor([[symbol]]), one, state)
        return symbols

    def report(self) -> str:
        """Return the word error rates of the development sets."""
        return report_errors(self.transcribe, self._development)

    def save(self) -> None:
        """Write arguments, weights in half precision, statistics and text pieces."""
        self._output_dir.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.half().contiguous()
            for name, tensor in self.transducer.state_dict().items()
        }
        save_file(weights, self._output_dir / "model.safetensors")
        _write_json(self._output_dir / "config.json", self._arguments)
        statistics = {
            "mean": self._front_end.mean.tolist(),
            "invstddev": self._front_end.inverse_deviation.tolist(),
        }
        _write_json(self._output_dir / "global_stats.json", statistics)
        (self._output_dir / "spm.model").write_bytes(self._piece_model)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _curriculum(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """Begin with digits, the shortest first; then everything, repeated words twice."""
    rng = random.Random(SEED)
    digits = [u for u in utterances if command_grammar.has_only_digits(u.text)]
    repeats = [u for u in utterances if command_grammar.repeats_a_word(u.text)]
    drawn_digits = batches(digits, BATCH_DURATION_S, rng)
    return chain(
        shortest_first(drawn_digits, SHORTEST_FIRST_BATCHES),
        islice(drawn_digits, DIGITS_FIRST_BATCHES),
        batches(utterances + repeats, BATCH_DURATION_S, rng),
    )


def train(output_dir: Path, workspace: Path) -> None:
    """Synthesise the corpus, train from nothing and write the model folder."""
    torch.set_num_threads(1)
    training = speech_corpus.training(workspace)
    development = speech_corpus.development(workspace)
    trainee = EmformerTrainee(output_dir, training, development, SEED)
    fit(trainee, RECIPE, _curriculum(training))
