"""What the tasks of a waveform have in common: a network with a head, and its frames."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from speechtext.devices import CPU
from speechtext.errors import RequestError
from speechtext.labels import load_labels
from speechtext.measurements import stage
from speechtext.parameters import read_parameters
from speechtext.speech.audio_checkpoints import AudioSettings, load_encoder, load_network
from speechtext.speech.chunks import SAMPLE_RATE_HZ, FrameGrid
from speechtext.speech.costs import SpeechCost, try_recognizer
from speechtext.speech.encoders import Encoder
from speechtext.speech.frame_models import FrameListener, FrameModel, stream_frames


class AudioTask(ABC):
    """A head on the hidden states of waveforms: from a recording and parameters to an answer."""

    auto_class: ClassVar[Any]
    settings_class: ClassVar[type[AudioSettings]] = AudioSettings
    # A dataclass of pydantic.
    parameters_class: ClassVar[type[Any]]
    has_labels: ClassVar[bool] = False
    # A request for the whole recording, whose answer has no limits.
    probe: ClassVar[Mapping[str, Any]] = {}
    labels: dict[int, str]
    cost: SpeechCost

    def __init__(self, network: Any, encoder: Encoder, settings: Any) -> None:
        self.network = network
        self.encoder = encoder
        self.settings = settings

    @classmethod
    def load(cls, folder: str | Path, settings: Any = None, device: torch.device = CPU) -> Self:
        """Return the task of a folder with a checkpoint and its feature extractor, run once.

        Raises `ValueError` or `OSError` with one sentence for what does not fit together.
        """
        settings, folder = settings or cls.settings_class(mode=""), Path(folder)
        network = load_network(cls.auto_class, folder, settings, device)
        task = cls(network, load_encoder(folder, network), settings)
        if cls.has_labels:
            task.labels = load_labels(folder, network.config)
        parameters = task.read_parameters(cls.probe)
        task.answer([torch.zeros(1)], [parameters])
        task.cost = try_recognizer(
            lambda waveforms: task.answer(waveforms, [parameters]), SAMPLE_RATE_HZ, device
        )
        return task

    def read_parameters(self, given: Mapping[str, Any]) -> Any:
        """Return a request's parameters, checked; raises `ImpossibleRequestError`."""
        return read_parameters(self.parameters_class, given, {})

    @torch.inference_mode()
    def answer(self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]) -> list[Any]:
        """Return the answer to each waveform of shape (samples,) at 16 kHz, in order.

        One that cannot be answered has its `RequestError`. Raises `NonFiniteOutputError`.
        """
        with stage("model"):
            found = self.compute(waveforms, parameters)
        with stage("decode"):
            return [
                each if isinstance(each, RequestError) else self.decode(waveform, each, asked)
                for waveform, each, asked in zip(waveforms, found, parameters, strict=True)
            ]

    @abstractmethod
    def compute(self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]) -> list[Any]:
        """Return the network's outputs for each waveform, or why that request gets no answer."""

    @abstractmethod
    def decode(self, waveform: torch.Tensor, found: Any, parameters: Any) -> Any:
        """Return the answer that a request with these parameters asks for."""

    @property
    def grid(self) -> FrameGrid:
        """Return where the frames of `frame_model` lie."""
        return self.encoder.choose_grid(self._layer_weights is not None)

    @property
    def _layer_weights(self) -> torch.Tensor | None:
        weights: torch.Tensor | None = getattr(self.network, "layer_weights", None)
        return weights

    def frame_model(self, head: Callable[[torch.Tensor], torch.Tensor]) -> FrameModel:
        """Return a head on the encoder's output, or on the weighted sum of all its layers.

        Which of them is the checkpoint's choice; the sum is that of Yang et al. 2021, "SUPERB".
        """
        weights = self._layer_weights
        if weights is None:
            return FrameModel(self.encoder, head)

        def add(layers: torch.Tensor) -> torch.Tensor:
            shares = weights.softmax(dim=-1)
            return head(torch.einsum("l,lfh->fh", shares, layers))

        return FrameModel(self.encoder, add, layers=True)

    def stream(
        self, model: FrameModel, waveforms: Sequence[torch.Tensor], on_frames: FrameListener
    ) -> None:
        """Tell a listener the outputs of a model for the frames of each waveform, in order."""
        stream_frames(model, waveforms, self.settings.windows, on_frames)


class RunningMean:
    """The mean and, where asked for, the deviation of frames that come piece by piece.

    Chan et al. 1983, "Algorithms for computing the sample variance".
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: torch.Tensor = torch.zeros(())
        self._squares: torch.Tensor = torch.zeros(())

    def add(self, frames: torch.Tensor) -> None:
        """Take frames of shape (..., frames, values), in double precision."""
        frames = frames.double()
        count, mean = frames.shape[-2], frames.mean(dim=-2)
        squares = (frames - mean.unsqueeze(-2)).square().sum(dim=-2)
        total, apart = self._count + count, mean - self._mean
        self._squares = self._squares + squares + apart.square() * self._count * count / total
        self._mean = self._mean + apart * count / total
        self._count = total

    def mean(self) -> torch.Tensor:
        """Return the mean of all frames, float32."""
        return self._mean.float()

    def deviation(self) -> torch.Tensor:
        """Return the standard deviation of all frames, with Bessel's correction, float32."""
        return (self._squares / (self._count - 1)).sqrt().float()
