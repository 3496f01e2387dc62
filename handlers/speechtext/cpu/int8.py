"""Products in int8: the weights rounded once, what they are multiplied with row by row."""

from typing import Any, Final

import torch
from torch import Tensor

from speechtext.cpu.packed import PACKED_ROWS, linear_layers


class Int8Product(torch.nn.Module):
    """A matrix in int8, of which a processor with VNNI or AMX reads a quarter and multiplies more.

    Each row of the weight and each row that it is multiplied with has a scale of its own, so that
    what a row gets never depends on others. Empty until a weight is loaded. TorchScript compiles
    it, too.
    """

    most: Final = 127
    # What is added to the rows. With VNNI alone, a processor multiplies unsigned numbers by signed
    # ones; for two signed ones oneDNN has nothing but its reference, hundreds of times slower.
    zero_point: Final = 128
    packed: Tensor
    scales: Tensor
    zero_points: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.is_loaded = False
        self.packed = torch.zeros(0)
        self.scales = torch.zeros(0)
        self.zero_points = torch.zeros(0, dtype=torch.int32)

    @torch.jit.export
    def load(self, weight: Tensor, rows: int) -> None:
        """Round a weight of shape (out, in), and lay it out for products of about so many rows."""
        weight = weight.float()
        self.scales = weight.abs().amax(dim=1).clamp(min=1e-30) / self.most
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, [rows, weight.size(1)])
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self.is_loaded = True

    def forward(self, rows: Tensor) -> Tensor:
        """Return shape (..., out), float32, for `rows` of shape (..., in)."""
        # In place: for many rows, these copies take as long as the product.
        amounts = rows.abs().amax(dim=-1, keepdim=True).float().clamp_(min=1e-30).div_(self.most)
        # Floats become signed bytes faster than unsigned ones. A byte that passes 255 begins again
        # at 0.
        signed = (rows / amounts).round_().to(torch.int8)
        unsigned = signed.to(torch.uint8).add_(self.zero_point)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,
            self.zero_point,
            self.packed,
            self.scales,
            self.zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return product.mul_(amounts)


class Int8Linear(torch.nn.Module):
    """Computes what a `Linear` computes, but for rounding, and of a row always the same.

    PyTorch's dynamic quantization has one scale for all rows of a call, padding included.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        self.bias = layer.bias
        self._product = Int8Product()
        self._product.load(layer.weight.detach(), PACKED_ROWS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return shape (..., out), float32, for inputs of shape (..., in)."""
        product: Tensor = self._product(inputs)
        return product if self.bias is None else product.add_(self.bias)


def quantize_linear_layers(network: Any) -> None:
    """Replace the linear layers of a network that is ready for inference on a CPU with VNNI."""
    for parent, name in list(linear_layers(network)):
        setattr(parent, name, Int8Linear(getattr(parent, name)))
