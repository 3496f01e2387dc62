"""TorchServe's `BaseHandler`, without PyTorch's compiler.

Where OpenVINO is installed, TorchServe imports its back end of `torch.compile`, of which nothing
here makes use: a sixth of what the imports of a worker with a text model take.
"""

import sys

COMPILER = "openvino.torch"
# A module that is None cannot be imported, which TorchServe is prepared for.
sys.modules.setdefault(COMPILER, None)  # type: ignore[arg-type]
try:
    from ts.torch_handler.base_handler import BaseHandler
finally:
    if sys.modules[COMPILER] is None:
        del sys.modules[COMPILER]

__all__ = ["BaseHandler"]
