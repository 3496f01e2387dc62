"""What a GPU needs and can be tried without one."""

import io
import logging
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from batches import LOST_STATUS
from repository import ROOT
from speechtext import checkpoints
from speechtext.allowance import run_timed
from speechtext.checkpoints import (
    PRODUCTS,
    load_checkpoint,
    load_script,
    move_constants,
    name_products,
)
from speechtext.devices import (
    choose_device,
    choose_dtype,
    count_cores,
    free_memory,
    is_lost,
    limit_threads,
    prepare_device,
)
from speechtext.failures import run_smaller
from speechtext.text.loading import CompileSettings, speed_up

CPU, META, GPU = torch.device("cpu"), torch.device("meta"), torch.device("cuda", 1)
# What a worker does with an error of a GPU that can be used no more; where none is there, PyTorch
# refuses what it is asked as well.
LOST = """
import time, torch
from batches import write_outcome
from speechtext.failures import run_isolated

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


@pytest.mark.parametrize(
    ("gpu_id", "cuda", "mps", "expected"),
    [
        (None, True, True, "cpu"),
        (-1, True, True, "cpu"),
        (1, True, False, "cuda:1"),
        (0, False, True, "mps"),
        (0, False, False, "cpu"),
    ],
)
def test_device_is_the_gpu_that_the_worker_was_given(
    monkeypatch: pytest.MonkeyPatch, gpu_id: int | None, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device(gpu_id) == torch.device(expected)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_auto_dtype_follows_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", CPU) == expected
    assert choose_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_auto_dtype_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", torch.device("cuda", 0)) == getattr(torch, expected)


def test_bfloat16_of_other_hardware_is_not_chosen_by_itself() -> None:
    assert choose_dtype("auto", META) == torch.float32
    assert choose_dtype("bfloat16", META) == torch.bfloat16


def test_threads_are_those_asked_for_else_a_share_of_the_cores() -> None:
    before, cores, told = torch.get_num_threads(), count_cores(), []
    try:
        for threads, workers in ((3, 1), (None, 1), (None, 2), (None, 1000), (None, 0)):
            limit_threads(threads, workers)
            told.append(torch.get_num_threads())
        limit_threads(None)
        told.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert told == [3, cores, max(1, cores // 2), 1, cores, cores]


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: an illegal memory access")])
def test_gpu_that_refuses_everything_is_lost(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def synchronize() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    assert is_lost() == (error is not None)


@pytest.mark.parametrize("there", [True, False])
def test_memory_of_a_gpu_is_given_back_where_one_is(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Also of one that is lost, which says so."""
    asked: list[int] = []

    def empty_cache() -> None:
        asked.append(1)
        raise torch.AcceleratorError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    monkeypatch.setattr(torch.accelerator, "empty_cache", empty_cache)
    free_memory()
    assert len(asked) == there


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
    assert "The GPU no longer responds" in ended.stderr


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_of_another_thread_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"^pt2.compile.mode: expected one without CUDA graphs"):
        speed_up(torch.nn.Linear(1, 1), CompileSettings(enable=True, mode=mode), GPU)


def test_first_run_on_a_gpu_is_not_counted() -> None:
    runs: list[int] = []
    run_timed(lambda: runs.append(1), GPU)
    run_timed(lambda: runs.append(2))
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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch lacks oneDNN.")
def test_products_are_named_as_pytorch_names_them() -> None:
    for namespace, schemas in PRODUCTS.items():
        for schema in schemas:
            name = f"{namespace}::{schema.partition('(')[0]}"
            declared = map(str, torch._C._jit_get_schemas_for_operator(name))
            # What sizes may be is another matter.
            assert f"{namespace}::{schema}" in [
                each.replace("int?", "SymInt?") for each in declared
            ]


def test_names_that_pytorch_lacks_are_there_for_files_to_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {"no_such_library": ("product(Tensor a, int b) -> Tensor",)}
    monkeypatch.setattr(checkpoints, "PRODUCTS", missing)
    kept = name_products.__wrapped__()
    assert torch.ops.no_such_library.product.default._schema.name == "no_such_library::product"
    assert len(kept) == 1


def test_loading_a_checkpoint_says_nothing() -> None:
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        folder = ROOT / "demo_models" / "bert_seq_classification"
        load_checkpoint(AutoModelForSequenceClassification, folder)
    finally:
        logger.removeHandler(handler)
    assert told.getvalue() == ""
