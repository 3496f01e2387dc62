"""A network that OpenVINO runs, in the place of one of PyTorch's.

OpenVINO compiles the whole of a network for the processor that it finds, and fuses what lies
between its products. It has no gradients.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from speechtext.devices import CPU

if TYPE_CHECKING:
    from openvino import CompiledModel

# Beside it OpenVINO looks for the weights, in model.bin.
OPENVINO_FILE = "model.xml"
MISSING = "handler.save_mode: expected the package openvino, of the extra openvino, with it."
# How OpenVINO calls the dtypes that it computes in.
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class OpenVinoModel(torch.nn.Module):
    """A compiled model; its inputs have the names that they have in the file."""

    def __init__(self, compiled: "CompiledModel") -> None:
        super().__init__()
        self.compiled = compiled
        self.input_names: Sequence[str] = [each.any_name for each in compiled.inputs]


class OpenVinoNetwork(OpenVinoModel):
    """Computes each call by itself."""

    device = CPU

    def __init__(self, compiled: "CompiledModel") -> None:
        super().__init__(compiled)
        self._request = compiled.create_infer_request()

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs, in their order, on the CPU."""
        given = {name: each.numpy() for name, each in inputs.items()}
        found = self._request.infer(given, share_inputs=True)
        return tuple(torch.from_numpy(found[index]) for index in range(len(found)))


def check_device(device: torch.device) -> None:
    """Raise `ValueError` for a device that OpenVINO is not for."""
    if device.type != "cpu":
        raise ValueError(f"handler.save_mode: expected a CPU with openvino, got {device.type}.")


def compile_openvino(path: Path, dtype: torch.dtype) -> "CompiledModel":
    """Return a file of OpenVINO's compiled for this processor and this process's threads.

    Raises `ValueError` where the package is missing, and for a damaged file.
    """
    try:
        import openvino
    except ImportError as error:
        raise ValueError(MISSING) from error
    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        # Numbers of a token that share a scale where weights alone are in int8 or int4: with 32,
        # OpenVINO's own choice, a product takes up to 1.5 times as long.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
        # Keys and values that are kept would be in int8.
        "KV_CACHE_PRECISION": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Workers know nothing of each other, and would all choose the same cores.
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 1,
    }
    try:
        return openvino.compile_model(path, "CPU", options)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name}: expected a file of OpenVINO's, got a damaged one."
        ) from error
