"""Products in int8: the weights rounded once, what they are multiplied with row by row."""

import torch
from torch import Tensor


class Int8Product(torch.nn.Module):
    """A matrix in int8, of which a processor with VNNI or AMX reads a half and multiplies more.

    Each row of the weight and each row that it is multiplied with has a scale of its own, so that
    what a row gets never depends on others. Empty until a weight is loaded.
    """

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
        self.scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, [rows, weight.size(1)])
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self.is_loaded = True

    def forward(self, rows: Tensor) -> Tensor:
        """Return shape (..., out), float32, for `rows` of shape (..., in)."""
        amounts = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-30) / 127
        rounded = (rows / amounts).round().to(torch.int8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            0,
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
        return product * amounts
