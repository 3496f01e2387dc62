"""A network that OpenVINO runs, in the place of one of PyTorch's.

OpenVINO compiles the whole of a network for the processor that it finds, and fuses what lies
between its products. It has no gradients.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from openvino import CompiledModel

MISSING = "handler.save_mode: expected the package openvino, of the extra openvino, with it."
# How OpenVINO calls the dtypes that it computes in.
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class OpenVinoNetwork(torch.nn.Module):
    """Computes with a compiled model; its inputs have the names that they have in the file."""

    def __init__(self, compiled: "CompiledModel") -> None:
        super().__init__()
        self._request = compiled.create_infer_request()
        self.input_names: Sequence[str] = [each.any_name for each in compiled.inputs]

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs, in their order, on the CPU."""
        found = self._request.infer({name: each.numpy() for name, each in inputs.items()})
        return tuple(torch.from_numpy(found[index]) for index in range(len(found)))


def load_openvino(path: Path, dtype: torch.dtype) -> OpenVinoNetwork:
    """Return a file of OpenVINO's compiled for this processor and this process's threads.

    Raises `ValueError` where the package is missing, and for a damaged file.
    """
    try:
        import openvino
    except ImportError as error:
        raise ValueError(MISSING) from error
    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Workers know nothing of each other, and would all choose the same cores.
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 1,
    }
    try:
        compiled: Any = openvino.compile_model(path, "CPU", options)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name}: expected a file of OpenVINO's, got a damaged one."
        ) from error
    return OpenVinoNetwork(compiled)
