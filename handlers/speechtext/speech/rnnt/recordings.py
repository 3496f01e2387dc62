"""What an RNN-T knows of a recording on its way: audio, context, hypotheses, certain tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from speechtext.speech.rnnt.features import HOP_SAMPLES, REACH_SAMPLES
from speechtext.speech.rnnt.hotword_search import HotwordTrack
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses
from speechtext.speech.transcripts import Token


@dataclass
class Recording:
    """A waveform, or as much as there is of it so far, on its way through the recogniser.

    `samples`, of shape (samples,) at 16 kHz, begin at `first_sample` of the whole. `left` is the
    encoder's left context, `frames` are those encoded, `tokens` those that are certain, and
    `hotwords` those that are searched for.
    """

    samples: torch.Tensor
    left: torch.Tensor
    hypotheses: Hypotheses
    ended: bool = True
    first_sample: int = 0
    frames: int = 0
    tokens: list[Token] = field(default_factory=list)
    encodings: list[torch.Tensor] | None = None
    hotwords: HotwordTrack | None = None

    def received(self) -> int:
        """Return how many samples there were so far."""
        return self.first_sample + len(self.samples)

    def best_tokens(self) -> list[Token]:
        """Return the certain tokens and the best hypothesis for what follows them."""
        return [*self.tokens, *_take(self.hypotheses, len(self.hypotheses.tokens[0]))]

    def score(self) -> float:
        """Return the log-probability of the best hypothesis."""
        return self.hypotheses.scores[0]

    def keep_certain(self, found: Hypotheses) -> None:
        """Take off the tokens that all hypotheses found have in common, and keep the rest.

        Each at the same frame: otherwise the best hypothesis could be another one in the end, whose
        later tokens have earlier frames than these.
        """
        paths = [
            list(zip(*each, strict=True)) for each in zip(found.tokens, found.frames, strict=True)
        ]
        columns = zip(*paths, strict=False)
        certain = next(
            (position for position, column in enumerate(columns) if len(set(column)) > 1),
            min(map(len, paths)),
        )
        self.tokens.extend(_take(found, certain))
        self.hypotheses = found._replace(
            tokens=[each[certain:] for each in found.tokens],
            frames=[each[certain:] for each in found.frames],
            probabilities=[each[certain:] for each in found.probabilities],
            kept=found.kept + certain,
        )

    def drop_samples(self, stride: int) -> None:
        """Forget the samples that no later frame sees."""
        first = max(0, self.frames * stride * HOP_SAMPLES - REACH_SAMPLES)
        self.samples = self.samples[first - self.first_sample :]
        self.first_sample = first


def _take(hypotheses: Hypotheses, count: int) -> Iterator[Token]:
    columns = (hypotheses.tokens[0], hypotheses.frames[0], hypotheses.probabilities[0])
    for token, frame, probability in zip(*(each[:count] for each in columns), strict=True):
        yield Token(token, frame, frame + 1, probability)
