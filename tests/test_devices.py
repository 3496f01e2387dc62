"""What a GPU needs and can be tried without one."""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from batches import LOST_STATUS
from repository import ROOT
from speechtext.allowance import measure_seconds
from speechtext.batching import run_smaller
from speechtext.checkpoints import load_script, move_constants
from speechtext.devices import prepare_device
from speechtext.text.loading import CompileSettings, speed_up

META, GPU = torch.device("meta"), torch.device("cuda", 1)
# What a worker does with an error of a GPU that can be used no more; where none is there, PyTorch
# refuses what it is asked as well.
LOST = """
import time, torch
from batches import write_outcome
from speechtext.batching import run_isolated

def fail(requests):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

for error in run_isolated(fail, [1, 2]):
    print(write_outcome(error, 0, None), flush=True)
time.sleep(20)
print("goes on")
"""


class Masked(torch.nn.Module):
    """Makes a tensor on the device of its input, which a trace takes for a constant."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + torch.arange(ids.shape[1], device=ids.device).to(ids.device)


def test_float32_on_a_gpu_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    prepare_device(torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32
    prepare_device(GPU)
    assert not torch.backends.cudnn.allow_tf32
    assert chosen == [GPU]


def test_trace_makes_its_tensors_where_it_is(tmp_path: Path) -> None:
    traced = torch.jit.trace(Masked(), torch.ones(2, 3, dtype=torch.long))
    traced.save(str(tmp_path / "model.pt"))
    script = load_script(tmp_path / "model.pt", torch.device("cpu"))
    ids = torch.ones(2, 3, dtype=torch.long, device=META)
    assert "cpu" in str(script.graph)
    move_constants(script, META)
    assert "cpu" not in str(script.graph)
    assert script(ids).device == META


def test_process_whose_gpu_is_lost_ends() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "handlers"), str(ROOT)))}
    command = [sys.executable, "-c", LOST]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == LOST_STATUS
    answers = ended.stdout.splitlines()
    assert len(answers) == 2
    assert all("'code': 503, 'type': 'DeviceLost'" in each for each in answers)
    assert "The GPU answers nothing any more" in ended.stderr


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_of_another_thread_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"^pt2.compile.mode: expected one without CUDA graphs"):
        speed_up(torch.nn.Linear(1, 1), CompileSettings(enable=True, mode=mode), GPU)


def test_first_run_on_a_gpu_is_not_counted() -> None:
    runs: list[int] = []
    measure_seconds(lambda: runs.append(1), GPU)
    measure_seconds(lambda: runs.append(2))
    assert runs == [1, 1, 2]


def test_what_does_not_fit_is_run_in_smaller_parts() -> None:
    asked: list[int] = []
    kept: list[weakref.ref[Any]] = []

    class Rows:
        """What a run that fails has on the device."""

    def run(rows: int) -> int:
        asked.append(rows)
        assert not [each for each in kept if each() is not None], "the last run's is still there"
        own = Rows()
        kept.append(weakref.ref(own))
        if rows > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows

    assert run_smaller(run, 40) == 5
    assert asked == [40, 20, 10, 5]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), ValueError("x")])
def test_what_never_fits_and_other_faults_are_told(error: Exception) -> None:
    asked: list[int] = []

    def run(rows: int) -> Any:
        asked.append(rows)
        raise error

    with pytest.raises(type(error)):
        run_smaller(run, 4)
    assert asked == ([4, 2, 1] if isinstance(error, torch.OutOfMemoryError) else [4])
