"""Linear layers that multiply in int8, each row of what they get rounded by itself."""

from typing import Any

import torch

from speechtext.cpu.packed import PACKED_ROWS, linear_layers

MOST = 127


class Int8Linear(torch.nn.Module):
    """Computes what a `Linear` computes, but for rounding, and of a row always the same.

    Each row of the weight and each row that it is multiplied with has a scale of its own. PyTorch's
    dynamic quantization has one for all rows of a call, padding included.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        self.bias = layer.bias
        weight = layer.weight.detach()
        self._scales = weight.abs().amax(dim=1).clamp(min=1e-30) / MOST
        rounded = (weight / self._scales[:, None]).round().to(torch.int8)
        shape = [PACKED_ROWS, self.in_features]
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, shape)
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return shape (..., out), float32, for inputs of shape (..., in)."""
        # In place: for many rows, these copies take as long as the product.
        scales = inputs.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-30).div_(MOST)
        rounded = (inputs / scales).round_().to(torch.int8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            0,
            self._packed,
            self._scales,
            self._zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        ).mul_(scales)
        return product if self.bias is None else product.add_(self.bias)


def quantize_linear_layers(network: Any) -> None:
    """Replace the linear layers of a network that is ready for inference on a CPU with VNNI."""
    for parent, name in list(linear_layers(network)):
        setattr(parent, name, Int8Linear(getattr(parent, name)))
