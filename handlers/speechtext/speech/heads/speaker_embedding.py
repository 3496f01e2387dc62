"""A voice as a vector: x-vectors, and whether two of them are of one speaker."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoModelForAudioXVector

from speechtext.errors import ImpossibleRequestError, RequestError
from speechtext.settings import STRICT
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.encoders import Encoder
from speechtext.speech.heads.base import AudioTask, RunningMean


@dataclass(frozen=True, config=STRICT)
class SpeakerEmbeddingSettings(AudioSettings):
    """Keys of the YAML: the cosine from which on two recordings are of one speaker."""

    threshold: Annotated[float, KeyOptions(ge=-1, le=1)] = 0.86


@dataclass(frozen=True, config=STRICT)
class NoParameters:
    """A request has none."""


class SpeakerEmbedding(AudioTask):
    """The x-vector of a recording, of length 1.

    Snyder et al. 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition".
    """

    auto_class = AutoModelForAudioXVector
    settings_class = SpeakerEmbeddingSettings
    parameters_class = NoParameters

    def __init__(self, network: Any, encoder: Encoder, settings: Any) -> None:
        super().__init__(network, encoder, settings)
        kernels = zip(network.config.tdnn_kernel, network.config.tdnn_dilation, strict=True)
        # Frames that its convolutions see beside the one that their output is for.
        self._context = sum((kernel - 1) * dilation for kernel, dilation in kernels)

    def compute(
        self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]
    ) -> list[torch.Tensor | RequestError]:
        """Return each voice, shape (dimensions,), or that a recording has too few frames."""
        statistics = [RunningMean() for _ in waveforms]
        left = [torch.zeros(0, self.network.config.tdnn_dim[0]) for _ in waveforms]
        counts = [0] * len(waveforms)

        def pool(index: int, frames: torch.Tensor) -> None:
            frames = torch.cat([left[index], frames])
            if len(frames) > self._context:
                found = self._convolve(frames)
                statistics[index].add(found)
                counts[index] += len(found)
                frames = frames[len(frames) - self._context :]
            left[index] = frames

        self.stream(self.frame_model(self.network.projector), waveforms, pool)
        return [
            # A single frame has no deviation.
            self._embed(each) if count > 1 else self._too_short()
            for each, count in zip(statistics, counts, strict=True)
        ]

    def _convolve(self, frames: torch.Tensor) -> torch.Tensor:
        network = self.network
        hidden = frames[None].to(network.device, network.dtype)
        for layer in network.tdnn:
            hidden = layer(hidden)
        return hidden[0].float().cpu()

    def _embed(self, statistics: RunningMean) -> torch.Tensor:
        network = self.network
        pooled = torch.cat([statistics.mean(), statistics.deviation()])
        embedding: torch.Tensor = network.feature_extractor(
            pooled.to(network.device, network.dtype)
        )
        return torch.nn.functional.normalize(embedding.float().cpu(), dim=-1)

    def _too_short(self) -> RequestError:
        least_s = (self._context + 2) * self.grid.frame_s
        return ImpossibleRequestError(
            "TooShort", f"Expected a recording of at least {least_s:.2f} s in body."
        )

    def decode(
        self, waveform: torch.Tensor, found: torch.Tensor, parameters: NoParameters
    ) -> torch.Tensor:
        """Return the voice, shape (dimensions,)."""
        return found

    def compare(self, one: torch.Tensor, other: torch.Tensor) -> dict[str, Any]:
        """Return how alike two voices are, and whether they are one speaker's."""
        cosine = float(one @ other)
        threshold = self.settings.threshold
        return {"cosine": cosine, "threshold": threshold, "same_speaker": cosine >= threshold}
