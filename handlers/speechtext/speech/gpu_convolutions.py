"""The convolutions of Wav2Vec2 in the form in which a GPU computes them fast.

cuDNN makes a plan for each shape that it meets, and waveforms seldom are of one length: 2 to 5 ms
for each of seven convolutions on an H200, where 512 s of audio in one batch take all seven 17 ms.
So a batch goes through the front end together. What its group norm divides by follows from each
waveform's own samples, so that padding changes nothing. The grouped convolution behind it, which
tells positions, took cuDNN two thirds of the transformer's time: 23 ms of 35.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

# Lengths are rounded up to these, so that shapes come again.
ROUND_SAMPLES = 16_000
# Frames whose windows share a row of the product: as many times fewer rows, and hardly more zeros.
FRAMES_PER_ROW = 8


class FrontEnd(torch.nn.Module):
    """The convolutions over the samples of a padded batch.

    `samples` is how many samples of each row are its own: a waveform's frames do not depend on
    those behind it. It is set before the network is asked.
    """

    samples: Sequence[int] = ()


class Together(FrontEnd):
    """All waveforms of a batch go through the convolutions at once."""

    def __init__(self, front_end: Any) -> None:
        super().__init__()
        first, *rest = front_end.conv_layers
        norm = getattr(first, "layer_norm", None)
        over_time = isinstance(norm, torch.nn.GroupNorm)
        self.first = NormalizedOverTime(first) if over_time else None
        self.layers: Any = torch.nn.ModuleList(rest if over_time else front_end.conv_layers)

    def forward(self, padded: torch.Tensor) -> torch.Tensor:
        """Return shape (batch, channels, frames) for shape (batch, samples)."""
        rounded = pad(padded, (0, -padded.shape[1] % ROUND_SAMPLES))
        frames = padded.shape[1]
        hidden = rounded[:, None]
        if self.first is not None:
            hidden = self.first(rounded, self.samples)
            frames = self.first.count_frames(frames)
        for layer in self.layers:
            hidden = layer(hidden)
            frames = (frames - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        return hidden[:, :, :frames]


class NormalizedOverTime(torch.nn.Module):
    """A first convolution, a group norm of one channel each over all frames, and the activation.

    The mean and the variance of a channel follow from those of the windows that it sees, and become
    part of each row's weight. A bias of the convolution is but another mean.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        # Shape (channels, kernel).
        self.weight = layer.conv.weight.detach()[:, 0]
        self.kernel = int(self.weight.shape[1])
        self.stride = int(layer.conv.stride[0])
        self.norm = layer.layer_norm
        self.activation = layer.activation

    def count_frames(self, samples: int) -> int:
        """Return how many frames so many samples make."""
        return (samples - self.kernel) // self.stride + 1

    def forward(self, padded: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        """Return shape (batch, channels, frames); `samples` are each row's own."""
        windows = padded.unfold(1, self.kernel, self.stride)
        counts = [self.count_frames(each) for each in samples]
        weight, bias = self._normalized(windows, torch.tensor(counts, device=padded.device))
        product = torch.baddbmm(bias[:, :, None], weight, windows.transpose(1, 2))
        activated: torch.Tensor = self.activation(product)
        return activated

    def _normalized(
        self, windows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's weight, shape (batch, channels, kernel), and bias (batch, channels)."""
        own = torch.arange(windows.shape[1], device=windows.device) < counts[:, None]
        shares = (own / counts[:, None].double())[:, :, None]
        seen, kernels = windows.double(), self.weight.double()
        mean = (seen * shares).sum(dim=1)
        centred = seen - mean[:, None]
        covariance = (centred * shares).transpose(1, 2) @ centred
        variance = ((kernels @ covariance) * kernels).sum(dim=2)
        scale = self.norm.weight.double() / (variance + self.norm.eps).sqrt()
        weight = scale[:, :, None] * kernels
        bias = self.norm.bias - (weight @ mean[:, :, None])[:, :, 0]
        return weight.to(windows.dtype), bias.to(windows.dtype)


class GroupedProducts(torch.nn.Module):
    """A grouped convolution of stride 1 as one matrix product for each group.

    A row of it has the windows of some neighbouring frames, which overlap but for a few samples.
    """

    matrix: torch.Tensor

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        channels, own, self.kernel = weight.shape
        self.groups = convolution.groups
        self.padding = convolution.padding[0]
        self.bias = convolution.bias
        made = weight.view(self.groups, channels // self.groups, own, self.kernel)
        # Shape (groups, samples of a row, channels in, frames of a row, channels out).
        shape = self.groups, self.kernel + FRAMES_PER_ROW - 1, own, FRAMES_PER_ROW, made.shape[1]
        matrix = weight.new_zeros(shape)
        for frame in range(FRAMES_PER_ROW):
            matrix[:, frame : frame + self.kernel, :, frame] = made.permute(0, 3, 2, 1)
        self.register_buffer("matrix", matrix.flatten(1, 2).flatten(2), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return shape (batch, channels out, frames) for shape (batch, channels in, frames)."""
        batch, channels, frames = hidden.shape
        own, made = channels // self.groups, frames + 2 * self.padding - self.kernel + 1
        rows = -(-made // FRAMES_PER_ROW)
        behind = rows * FRAMES_PER_ROW + self.kernel - 1 - frames - self.padding
        padded = pad(hidden, (self.padding, behind)).unflatten(1, (self.groups, own))
        # Shape (groups, batch, frames * channels): windows lie in one stretch of memory.
        flat = padded.permute(1, 0, 3, 2).flatten(2)
        windows = flat.unfold(2, (self.kernel + FRAMES_PER_ROW - 1) * own, FRAMES_PER_ROW * own)
        products = torch.bmm(windows.flatten(1, 2), self.matrix)
        parted = products.view(self.groups, batch, rows * FRAMES_PER_ROW, -1)[:, :, :made]
        found = parted.permute(1, 0, 3, 2).flatten(1, 2)
        return found if self.bias is None else found + self.bias[:, None]


def speed_up_positions(network: torch.nn.Module) -> None:
    """Replace the grouped convolutions of a network; those of a group for each channel stay."""
    for module in network.modules():
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.Conv1d) and _is_grouped(layer):
                setattr(module, name, GroupedProducts(layer))


def _is_grouped(layer: torch.nn.Conv1d) -> bool:
    plain = layer.stride == layer.dilation == (1,) and isinstance(layer.padding, tuple)
    return plain and layer.padding_mode == "zeros" and 1 < layer.groups < layer.in_channels
