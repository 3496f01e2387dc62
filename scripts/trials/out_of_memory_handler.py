"""The text handler on a device that is too small: its model runs out of memory, as a GPU does.

An archive of the trials has this handler; the model itself and everything around it are real.
"""

from typing import Any

import torch

from transformers_handler import TransformersSeqClassifierHandler

MOST_ROWS, MOST_TOKENS = 2, 60


class OutOfMemoryHandler(TransformersSeqClassifierHandler):
    """Answers up to two rows of up to sixty tokens at once; more of either does not fit."""

    def initialize(self, context: Any) -> None:
        """Load the archive, and let its model count what it is given."""
        super().initialize(context)
        self.model.register_forward_pre_hook(refuse, with_kwargs=True)


def refuse(_module: Any, _arguments: Any, named: dict[str, torch.Tensor]) -> None:
    """Raise what PyTorch raises, for a batch that is too large."""
    rows, tokens = named["input_ids"].shape
    if rows > MOST_ROWS or tokens > MOST_TOKENS:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
