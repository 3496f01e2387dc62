"""Linear layers in the form in which an x86 CPU multiplies them fastest.

PyTorch multiplies float32 with MKL, which does not use all of AVX-512 on AMD, and rearranges a
weight in bfloat16 on each call. oneDNN, which is inside PyTorch, takes weights that were rearranged
once, and computes the GELU behind a product while it is in the cache. A `768 x 3072` product of 8
rows takes 0.37 ms instead of 0.73 in float32 and 0.20 instead of 0.32 in bfloat16, one of 520 rows
24 instead of 29, on an AMD EPYC of the fourth generation, one thread.
"""

import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

# A layout for so many rows is the best for fewer and for more of them, too.
PACKED_ROWS = 512
# Heads with fewer labels gain nothing.
LEAST_WIDTH = 16
# Layers whose weights their parents read, to multiply them or to ask for their dtype.
READ_BY_PARENTS, READ_NAMES = ("WavLMAttention",), ("wo",)
X86 = ("x86_64", "amd64")


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether this processor multiplies packed weights of a dtype."""
    if platform.machine().lower() not in X86 or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def can_multiply_int8() -> bool:
    """Tell whether this processor multiplies int8 with sums in int32: VNNI, which AMX has as well.

    Without it, oneDNN's sums overflow, or are slower than those in float32.
    """
    x86 = platform.machine().lower() in X86 and torch.backends.mkldnn.is_available()
    return x86 and bool(torch.cpu._is_vnni_supported())


class PackedLinear(torch.nn.Module):
    """Computes what a `Linear` computes, and the GELU of that where it is given one.

    Gradients are those of the inputs alone.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, gelu: str | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.gelu = gelu
        self._packed = _pack(weight)
        # Packed when the first gradient is asked for.
        self._packed_transposed: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """Return a copy of the weight as it was, shape (out, in)."""
        return self._packed.to_dense()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return shape (..., out) for inputs of shape (..., in)."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            product: torch.Tensor = _Product.apply(inputs, self)  # type: ignore[no-untyped-call]
            return product if self.gelu is None else functional.gelu(product, approximate=self.gelu)
        return _multiply(inputs, self._packed, self.bias, self.gelu)

    def multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the linear layer alone makes of inputs."""
        return _multiply(inputs, self._packed, self.bias)

    def multiply_back(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradients of the inputs, for those of what the linear layer alone returned."""
        if self._packed_transposed is None:
            self._packed_transposed = _pack(self.weight.t().contiguous())
        return _multiply(gradients, self._packed_transposed, None)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        context.layer = layer
        product = layer.multiply(inputs)
        # No view, as what a function returns may not be changed in place then: Longformer does.
        own: torch.Tensor = torch.ops.aten._unsafe_view(product, product.shape)
        return own

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        layer: PackedLinear = context.layer
        return layer.multiply_back(gradients[0]), None


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
    return packed


def _multiply(
    inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, gelu: str | None = None
) -> torch.Tensor:
    after = ("none", "") if gelu is None else ("gelu", gelu)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        inputs, packed, bias, after[0], [], after[1]
    )
    return product


def pack_linear_layers(network: Any) -> None:
    """Replace the linear layers of a network that is ready for inference on a CPU.

    Their weights are let go, but for those that embeddings share. A processor that cannot multiply
    packed weights keeps the layers.
    """
    for parent, name in list(linear_layers(network)):
        layer = getattr(parent, name)
        if min(layer.weight.shape) >= LEAST_WIDTH and can_pack(layer.weight.dtype):
            setattr(parent, name, PackedLinear(layer.weight, layer.bias))


def linear_layers(network: Any) -> Iterator[tuple[Any, str]]:
    """Yield the parent and the name of each linear layer, and keep none of them alive."""
    for parent in network.modules():
        for name, layer in parent.named_children():
            read = type(parent).__name__ in READ_BY_PARENTS or name in READ_NAMES
            # Subclasses compute something else with the weight.
            if type(layer) is torch.nn.Linear and not read:
                yield parent, name
