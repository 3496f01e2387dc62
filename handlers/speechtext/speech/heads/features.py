"""The hidden states of a recording, for models of one's own."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoModel

from speechtext.errors import RequestError, RequestTooLargeError
from speechtext.parameters import impossible
from speechtext.settings import STRICT
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.chunks import SAMPLE_RATE_HZ, FrameGrid
from speechtext.speech.frame_models import FrameModel
from speechtext.speech.heads.base import AudioTask, RunningMean


@dataclass(frozen=True, config=STRICT)
class FeatureSettings(AudioSettings):
    """Keys of the YAML: how many numbers an answer has at most."""

    max_values: Annotated[int, KeyOptions(ge=1)] = 1_000_000


@dataclass(frozen=True, config=STRICT)
class FeatureParameters:
    """What a request may ask for: a layer, and its frames or their mean.

    Layer 0 is what the first layer takes, 1 the output of the first; by default the model's own
    output, which may be normalised behind the last.
    """

    layer: int | None = None
    pooling: Literal["none", "mean"] = "none"


class Features(NamedTuple):
    """Hidden states, shape (frames, hidden), or (hidden,) of their mean; seconds of a frame."""

    values: torch.Tensor
    frame_s: float


class HiddenStates(AudioTask):
    """The hidden states of each frame of a recording, of one of the layers."""

    auto_class = AutoModel
    settings_class = FeatureSettings
    parameters_class = FeatureParameters
    probe: ClassVar = {"pooling": "mean"}

    def compute(
        self, waveforms: Sequence[torch.Tensor], parameters: Sequence[FeatureParameters]
    ) -> list[torch.Tensor | RequestError]:
        """Return the hidden states of each waveform, or why there are none."""
        asked = zip(waveforms, parameters, strict=True)
        return [self._refuse(*each) or self._compute(*each) for each in asked]

    def _refuse(self, waveform: torch.Tensor, asked: FeatureParameters) -> RequestError | None:
        layers = self.encoder.layer_count
        if asked.layer is not None and asked.layer not in range(layers):
            return impossible("layer", f"from 0 to {layers - 1}", str(asked.layer))
        grid, hidden = self._choose_grid(asked), self._count_values(asked)
        most = self.settings.max_values // hidden
        if asked.pooling == "mean" or grid.count_frames(len(waveform)) <= most:
            return None
        most_s = most * grid.frame_s
        return RequestTooLargeError(
            "TooManyValues",
            f"Expected at most {most_s:.2f} s of audio, {most} frames of {hidden} values, in body, "
            f"got {len(waveform) / SAMPLE_RATE_HZ:.2f} s; pooling: mean takes longer ones.",
        )

    def _choose_grid(self, asked: FeatureParameters) -> FrameGrid:
        return self.encoder.choose_grid(asked.layer is not None)

    def _count_values(self, asked: FeatureParameters) -> int:
        """Return how many values a frame has; an adapter's output may have others than layers."""
        config = self.network.config
        adapted = asked.layer is None and getattr(config, "add_adapter", False)
        return int(config.output_hidden_size if adapted else config.hidden_size)

    def _compute(self, waveform: torch.Tensor, asked: FeatureParameters) -> torch.Tensor:
        layer, mean = asked.layer, RunningMean()
        kept: list[torch.Tensor] = []

        def take(_: int, frames: torch.Tensor) -> None:
            if asked.pooling == "mean":
                mean.add(frames)
            else:
                kept.append(frames)

        model = (
            FrameModel(self.encoder, lambda hidden: hidden)
            if layer is None
            else FrameModel(self.encoder, lambda layers: layers[layer], layers=True)
        )
        self.stream(model, [waveform], take)
        return torch.cat(kept) if kept else mean.mean()

    def decode(
        self, waveform: torch.Tensor, found: torch.Tensor, parameters: FeatureParameters
    ) -> Features:
        """Return the hidden states with the seconds from one frame to the next."""
        return Features(found, self._choose_grid(parameters).frame_s)
