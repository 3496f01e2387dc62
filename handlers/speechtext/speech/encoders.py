"""Encoders of speech: from a waveform to hidden states, frame by frame, in each family.

Padding a batch of waveforms changes the answers of checkpoints whose first group norm averages
over time (`feat_extract_norm: group`, as base-960h), and of families that convolve or pool behind
the front end. So the convolutional front end takes each waveform by itself, or knows on a GPU which
samples are its own, and the rest runs on a padded batch, under a mask, only in those families where
that is exact.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.nn.utils.rnn import pad_sequence

from speechtext.cpu.networks import speed_up_network
from speechtext.measurements import note_padding
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Chunk, FrameGrid, cut_waveform
from speechtext.speech.cpu_front_end import speed_up_front_end
from speechtext.speech.gpu_convolutions import FrontEnd, Together, speed_up_positions

# That of `Wav2Vec2FeatureExtractor`.
NORMALIZATION_EPSILON = 1e-7


class Normalization(NamedTuple):
    """What gives a waveform zero mean and unit variance, whatever part of it is at hand."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def apply(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the waveform, or a part of it, normalised."""
        return waveform.sub(self.mean).div_(self.deviation)


def measure_normalization(
    waveform: torch.Tensor, epsilon: float = NORMALIZATION_EPSILON
) -> Normalization:
    """Return how `Wav2Vec2FeatureExtractor` normalises a waveform of shape (samples,).

    Measured on the whole and applied to chunks: a long recording has no room for a copy.
    """
    variance, mean = torch.var_mean(waveform, correction=0)
    return Normalization(mean, (variance + epsilon).sqrt())


class Piece(NamedTuple):
    """A chunk of a model's input, a view of the whole, and how the whole is normalised."""

    values: torch.Tensor
    norm: Normalization | None = None

    def load(self) -> torch.Tensor:
        """Return what the model takes: only the pieces at hand are copied."""
        return self.values if self.norm is None else self.norm.apply(self.values)


class Encoder(ABC):
    """What turns pieces of waveforms into hidden states, those of a piece the same in any batch."""

    # Where the frames of its output lie, and those of its layers: an adapter has fewer of them
    # behind the layers, SEW more.
    grid: FrameGrid
    layer_grid: FrameGrid
    # Whether pieces of different lengths may go through it together.
    pads = True
    # Samples that a value of a piece stands for.
    input_stride = 1
    # Whether its output has gradients with respect to the waveform.
    has_gradients = True
    # Whether there are no other heads than that for CTC.
    transcribes_only = False

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self._extractor = extractor
        fix_weights(network)
        if network.device.type == "cpu":
            speed_up_network(network)
        elif network.device.type == "cuda":
            speed_up_positions(network)

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        device: torch.device = self.network.device
        return device

    @property
    def layer_count(self) -> int:
        """Return how many hidden states a frame has: the first layer's input, and their outputs."""
        return int(self.network.config.num_hidden_layers) + 1

    def choose_grid(self, layers: bool) -> FrameGrid:
        """Return where the frames of the layers lie, or those of the output."""
        return self.layer_grid if layers else self.grid

    @abstractmethod
    def cut(
        self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
    ) -> list[Piece]:
        """Return the chunks of a waveform of shape (samples,) at 16 kHz as what `encode` takes.

        They are chunks of the output's frames, with `layers` of those of the layers.
        """

    @abstractmethod
    def encode(self, pieces: Sequence[torch.Tensor], layers: bool = False) -> list[torch.Tensor]:
        """Return the hidden states of each piece, of shape (frames, hidden).

        With `layers` those of each layer, of shape (layers, frames, hidden).
        """

    def _run(self, inputs: torch.Tensor, layers: bool, **options: Any) -> torch.Tensor:
        found = self.network(inputs, output_hidden_states=layers, **options)
        hidden: torch.Tensor = (
            torch.stack(found.hidden_states, dim=1) if layers else found.last_hidden_state
        )
        return hidden


def fix_weights(network: torch.nn.Module) -> None:
    """Compute once the weights that layers compute of others each time they are run."""
    for layer in network.modules():
        if is_parametrized(layer, "weight"):
            remove_parametrizations(layer, "weight")


class RowByRow(FrontEnd):
    """Each waveform goes through the convolutions by itself, which is fastest on a CPU."""

    def __init__(self, front_end: torch.nn.Module) -> None:
        super().__init__()
        self.front_end = front_end

    def forward(self, padded: torch.Tensor) -> torch.Tensor:
        """Return shape (batch, channels, frames) for shape (batch, samples)."""
        rows = [
            self.front_end(row[None, :samples])[0].T
            for row, samples in zip(padded, self.samples, strict=True)
        ]
        return pad_sequence(rows, batch_first=True).transpose(1, 2)


class SampleEncoder(Encoder):
    """Networks that are given samples, normalised over the whole waveform where they ask for it."""

    def __init__(self, network: Any, extractor: Any) -> None:
        super().__init__(network, extractor)
        config, convolved = network.config, _convolution_grid(network.config)
        # With one frame of padding on each side.
        self.grid = _adapt(convolved, config, padding=1)
        # SEW pools so many frames for its layers, and has none for less.
        self.layer_grid = _squeeze(convolved, getattr(config, "squeeze_factor", 1))
        self._least_samples = max(self.grid.field, self.layer_grid.field)
        epsilon = getattr(extractor, "normalization_epsilon", NORMALIZATION_EPSILON)
        self._epsilon = epsilon if extractor.do_normalize else None

    def cut(
        self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
    ) -> list[Piece]:
        """Return the samples of each chunk, to be normalised as the whole waveform is."""
        epsilon, grid = self._epsilon, self.choose_grid(layers)
        norm = None if epsilon is None else measure_normalization(waveform, epsilon)
        return [Piece(cut_waveform(waveform, grid, chunk), norm) for chunk in chunks]

    def _extend(self, piece: torch.Tensor) -> torch.Tensor:
        """Return a waveform that has a frame: one too short gets silence behind it."""
        missing = max(0, self._least_samples - len(piece))
        return torch.nn.functional.pad(piece, (0, missing)) if missing else piece


class WaveformEncoder(SampleEncoder):
    """Wav2Vec2 and what is built alike: convolutions over the samples, then a transformer."""

    def __init__(self, network: Any, extractor: Any) -> None:
        super().__init__(network, extractor)
        self._front_end = network.feature_extractor = _choose_front_end(network)
        # Its convolutions see what is behind the end of a shorter waveform.
        self.pads = type(self).pads and getattr(network, "adapter", None) is None

    def encode(self, pieces: Sequence[torch.Tensor], layers: bool = False) -> list[torch.Tensor]:
        """Return the hidden states of normalised waveforms; one of no whole frame has silence."""
        grid = self.choose_grid(layers)
        counts = [grid.count_frames(len(piece)) for piece in pieces]
        samples = [max(self._least_samples, len(piece)) for piece in pieces]
        network = self.network
        rows = [self._extend(piece.to(network.device, network.dtype)) for piece in pieces]
        padded = pad_sequence(rows, batch_first=True)
        self._front_end.samples = samples
        note_padding(max(counts) * len(counts), sum(counts))
        hidden = self._run(padded, layers, attention_mask=_mask(samples, padded))
        return [row[..., :count, :] for row, count in zip(hidden, counts, strict=True)]


def _choose_front_end(network: Any) -> FrontEnd:
    """Return the front end of a network in the form that is fastest where it is."""
    if network.device.type == "cuda":
        return Together(network.feature_extractor)
    if network.device.type == "cpu":
        speed_up_front_end(network)
    return RowByRow(network.feature_extractor)


def _mask(samples: Sequence[int], padded: torch.Tensor) -> torch.Tensor | None:
    """Return which samples are a waveform's, None for all: attention is faster without a mask."""
    if min(samples) == max(samples):
        return None
    ends = torch.tensor(samples, device=padded.device)[:, None]
    return (torch.arange(padded.shape[1], device=padded.device) < ends).long()


def _convolution_grid(config: Any) -> FrameGrid:
    """Return the grid that the convolutions of a model's front end lay over a waveform."""
    field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return FrameGrid(field, stride)


def _squeeze(grid: FrameGrid, factor: int) -> FrameGrid:
    """Return the grid of frames each of which is pooled of so many."""
    return FrameGrid(grid.field + (factor - 1) * grid.stride, grid.stride * factor)


def _adapt(grid: FrameGrid, config: Any, padding: int) -> FrameGrid:
    """Return the grid behind a model's adapter: convolutions with padding on each side, if any."""
    field, stride = grid
    for _ in range(config.num_adapter_layers if getattr(config, "add_adapter", False) else 0):
        field += (config.adapter_kernel_size - 1 - 2 * padding) * stride
        stride *= config.adapter_stride
    return FrameGrid(field, stride)


class UnpaddedEncoder(WaveformEncoder):
    """Families that convolve or pool behind the front end: frames at the end see the padding."""

    pads = False


class FeatureEncoder(Encoder):
    """A conformer on log-mel features, which its extractor normalises over the whole recording."""

    pads = False

    def cut(
        self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
    ) -> list[Piece]:
        """Return the features of each chunk, shape (features, bins)."""
        grid, features = self.choose_grid(layers), self._extract(waveform)
        each, last = grid.stride // self.input_stride, grid.count_frames(len(waveform))
        return [
            Piece(features[chunk.start * each : None if chunk.stop == last else chunk.stop * each])
            for chunk in chunks
        ]

    def encode(self, pieces: Sequence[torch.Tensor], layers: bool = False) -> list[torch.Tensor]:
        """Return the hidden states of features, all of one length."""
        batch = torch.stack(list(pieces)).to(self.network.device, self.network.dtype)
        note_padding(batch.shape[0] * batch.shape[1], batch.shape[0] * batch.shape[1])
        return list(self._run_features(batch, layers))

    def _run_features(self, features: torch.Tensor, layers: bool) -> torch.Tensor:
        return self._run(features, layers)

    def _extract(self, waveform: torch.Tensor) -> torch.Tensor:
        missing = max(0, self.grid.field - len(waveform), self.layer_grid.field - len(waveform))
        samples = torch.nn.functional.pad(waveform, (0, missing)).numpy()
        found = self._extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        features: torch.Tensor = found["input_features"][0]
        return features


class Wav2Vec2BertEncoder(FeatureEncoder):
    """On log-mel frames of 25 ms, one every 10 ms, in pairs: Seamless Communication 2023."""

    input_stride = 160
    layer_grid = FrameGrid(400 + 160, 320)

    def __init__(self, network: Any, extractor: Any) -> None:
        super().__init__(network, extractor)
        self.grid = _adapt(self.layer_grid, network.config, network.config.adapter_stride // 2)

    def _extract(self, waveform: torch.Tensor) -> torch.Tensor:
        pairs = super()._extract(waveform)
        least = max(self.grid.field, self.layer_grid.field)
        frames = (max(len(waveform), least) - 400) // self.input_stride + 1
        if not self.network.config.add_adapter:
            # A last frame without its pair is masked, and nothing else sees it.
            frames -= frames % 2
        return pairs.reshape(-1, pairs.shape[1] // 2)[:frames]

    def _run_features(self, features: torch.Tensor, layers: bool) -> torch.Tensor:
        rows, frames, bins = features.shape
        # An adapter sees what the layers, which it is masked for, make of a frame without its pair.
        alone = frames % 2
        pairs = torch.nn.functional.pad(features, (0, 0, 0, alone)).reshape(rows, -1, 2 * bins)
        mask = torch.ones(pairs.shape[:2], device=pairs.device, dtype=torch.long)
        mask[:, mask.shape[1] - alone :] = 0
        hidden = self._run(pairs, layers, attention_mask=mask if alone else None)
        samples = 400 + (frames - 1) * self.input_stride
        return hidden[..., : self.choose_grid(layers).count_frames(samples), :]


class ParakeetEncoder(FeatureEncoder):
    """Fast conformers on log-mel frames of 10 ms, eight at a time: Rekesh et al. 2023."""

    input_stride = 160
    grid = layer_grid = FrameGrid(160, 1_280)
    transcribes_only = True
    # The spread of one frame is no number.
    least_samples = 320

    def __init__(self, network: Any, extractor: Any) -> None:
        super().__init__(network.encoder, extractor)

    def _extract(self, waveform: torch.Tensor) -> torch.Tensor:
        missing = max(0, self.least_samples - len(waveform))
        features = super()._extract(torch.nn.functional.pad(waveform, (0, missing)))
        # A last frame, most of it behind the end, is masked elsewhere.
        return features[: max(self.least_samples, len(waveform)) // self.input_stride]


ENCODERS: Mapping[str, type[Encoder]] = {
    "data2vec-audio": UnpaddedEncoder,
    "hubert": WaveformEncoder,
    "parakeet_ctc": ParakeetEncoder,
    "sew": UnpaddedEncoder,
    "sew-d": UnpaddedEncoder,
    "unispeech": WaveformEncoder,
    "unispeech-sat": WaveformEncoder,
    "wav2vec2": WaveformEncoder,
    "wav2vec2-bert": Wav2Vec2BertEncoder,
    "wav2vec2-conformer": UnpaddedEncoder,
    "wavlm": WaveformEncoder,
}


def open_encoder(network: Any, extractor: Any) -> Encoder:
    """Return the encoder of a network without its head; raises `ValueError` for another family."""
    return find_encoder(network.config.model_type)(network, extractor)


def find_encoder(model_type: str) -> type[Encoder]:
    """Return the class of a family; raises `ValueError` where there is none."""
    if model_type not in ENCODERS:
        raise ValueError(
            f"config.json: expected model_type to be one of {', '.join(ENCODERS)}, got "
            f"{model_type!r}."
        )
    return ENCODERS[model_type]
