"""Loading what people hand over: checkpoints of transformers and TorchScript files."""

from pathlib import Path
from typing import Any

import torch

from speechtext.batching import is_out_of_memory


def load_script(path: Path, device: torch.device) -> Any:
    """Return a TorchScript file on its device; raises `ValueError` for a damaged one."""
    try:
        return torch.jit.load(str(path), device).eval()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{path.name}: expected TorchScript, got a damaged file.") from error


def load_checkpoint(model_class: Any, folder: Path, **options: Any) -> Any:
    """Return what `from_pretrained` gives for a folder, which no network is asked for.

    Raises `ValueError` where the configuration is not that of the weights.
    """
    try:
        return model_class.from_pretrained(folder, local_files_only=True, **options)
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise ValueError(
            "config.json: expected the sizes of the weights beside it, got other ones."
        ) from error
