"""Labels for a recording: commands, languages, emotions, whatever a checkpoint tells apart."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from transformers import AutoModelForAudioClassification

from speechtext.labels import choose_function, rank_labels, to_scores
from speechtext.ranges import PositiveCount
from speechtext.settings import STRICT
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.heads.base import AudioTask, RunningMean
from speechtext.speech.heads.explanation import AudioExplanation, explain_label


@dataclass(frozen=True, config=STRICT)
class AudioClassificationParameters:
    """What a request may ask for; `by_window` asks for the labels of each window of a long one."""

    top_k: PositiveCount | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    by_window: bool = False


class Pooled(NamedTuple):
    """The logits of a recording, and those of each of its windows with the frame behind it."""

    whole: torch.Tensor
    windows: Sequence[tuple[int, torch.Tensor]]


class AudioClassification(AudioTask):
    """The labels of a recording, of the mean of all its frames."""

    auto_class = AutoModelForAudioClassification
    has_labels = True
    parameters_class = AudioClassificationParameters

    def compute(self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]) -> list[Pooled]:
        """Return the logits of each waveform."""
        means = [RunningMean() for _ in waveforms]
        windows: list[list[tuple[int, torch.Tensor]]] = [[] for _ in waveforms]

        def pool(index: int, frames: torch.Tensor) -> None:
            means[index].add(frames)
            behind = (windows[index][-1][0] if windows[index] else 0) + len(frames)
            windows[index].append((behind, self._classify(frames.mean(dim=0)).cpu()))

        self.stream(self.frame_model(self.network.projector), waveforms, pool)
        return [
            Pooled(self._classify(mean.mean()).cpu(), own)
            for mean, own in zip(means, windows, strict=True)
        ]

    def _classify(self, pooled: torch.Tensor) -> torch.Tensor:
        network = self.network
        logits: torch.Tensor = network.classifier(pooled.to(network.device, network.dtype))
        return logits.float()

    def decode(
        self, waveform: torch.Tensor, found: Pooled, parameters: AudioClassificationParameters
    ) -> list[Any]:
        """Return what the pipeline "audio-classification" gives, of each window where asked for."""
        if not parameters.by_window:
            return self._rank(found.whole, parameters)
        frame_s, end_s = self.grid.frame_s, len(waveform) / SAMPLE_RATE_HZ
        starts = [0, *(behind for behind, _ in found.windows[:-1])]
        ends = [start * frame_s for start in starts[1:]] + [end_s]
        return [
            {
                "start": round(start * frame_s, 3),
                "end": round(end, 3),
                "labels": self._rank(logits, parameters),
            }
            for start, end, (_, logits) in zip(starts, ends, found.windows, strict=True)
        ]

    def explain(
        self, waveform: torch.Tensor, asked: AudioExplanationParameters
    ) -> AudioExplanation:
        """Return which stretches of a waveform of shape (samples,) a label depends on.

        Raises `ImpossibleRequestError` for a target that is no label, and `DeadlineError`.
        """
        model = self.frame_model(self.network.projector)
        return explain_label(model, self._classify, self.labels, waveform, asked)

    def _rank(
        self, logits: torch.Tensor, parameters: AudioClassificationParameters
    ) -> list[dict[str, Any]]:
        asked = parameters.function_to_apply
        function = asked or choose_function(self.network.config.problem_type)
        return rank_labels(to_scores(logits, function), self.labels, parameters.top_k)
