"""What a worker imports when it starts, which its start waits for."""

import subprocess
import sys

import pytest

from repository import ROOT

# As TorchServe's Python does, before the archive's handler.
LOAD = """
import sys
import ts.model_service_worker
import transformers_handler
print(*sys.modules)
"""


def test_compiler_is_left_out() -> None:
    """TorchServe imports OpenVINO's back end for it, where that is installed."""
    pytest.importorskip("openvino")
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, cwd=ROOT / "handlers", check=True, capture_output=True)
    loaded = set(done.stdout.decode().split())
    assert "ts.torch_handler.base_handler" in loaded
    assert not {"openvino", "openvino.torch", "torch._inductor.compile_fx"} & loaded
