"""Freed memory goes back to the machine."""

import gc
import os
import subprocess
import sys
import weakref

import psutil
import pytest
from transformers import AutoTokenizer

from repository import ROOT
from speechtext.host_memory import (
    KEPT_CONVOLUTIONS,
    KEPT_PLANS,
    KEPT_PRODUCTS,
    HostMemory,
    limit_products,
)
from speechtext.text.tokens import tokenize

BLOCK_BYTES = 1000


class Node:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.node = self


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_freed_memory_is_given_back_now_and_then() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    blocks = [bytearray(BLOCK_BYTES) for _ in range(100_000)]
    # Those that stay keep the C library from giving back the others by itself.
    kept, blocks = blocks[::50], []
    assert len(kept) == 2000
    before = resident_bytes()
    memory.give_back()
    assert before - resident_bytes() < 20 * 2**20
    now_s = 10.0
    memory.give_back()
    assert before - resident_bytes() > 50 * 2**20


def test_what_long_texts_took_is_given_back() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "demo_models" / "gpt2_text_generation")
    tokenize(tokenizer, ["Once upon a time"] * 8)
    texts = ["There was a king. " * 50_000] * 2
    before, kept = resident_bytes(), []
    for _ in range(5):
        tokenize(tokenizer, texts)
        now_s += 10.0
        memory.give_back()
        kept.append(resident_bytes() - before)
    assert max(kept) < 40 * 2**20


def test_objects_that_refer_to_each_other_are_given_back() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    gc.disable()
    try:
        node = weakref.ref(Node())
        memory.give_back()
        assert node() is not None
        now_s = 10.0
        memory.give_back()
        assert node() is None
    finally:
        gc.enable()


def test_names_that_were_looked_up_are_given_back() -> None:
    now_s = 0.0
    memory = HostMemory(lambda: now_s)
    name = "".join(("no", "_such_", "method"))
    used = sys.getrefcount(name)
    assert not hasattr(memory, name)
    assert sys.getrefcount(name) > used
    now_s = 10.0
    memory.give_back()
    assert sys.getrefcount(name) == used


LARGE = """
import resource
import statistics
import sys
import torch
from speechtext.host_memory import keep_freed, trim_freed
import psutil

if sys.argv[1] == "kept":
    keep_freed()
torch.set_num_threads(1)
for _ in range(8):
    torch.ones(16 * 2**20)
new_pages = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    new_pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# Of most: what else the process does may take one of the blocks apart.
faults = 5 * statistics.median(new_pages)
memory = psutil.Process()
kept = memory.memory_info().rss
trim_freed()
print(faults, kept - memory.memory_info().rss)
"""


def run_alone(script: str, how: str, **variables: str) -> list[int]:
    """Return the numbers that a script prints in a process of its own."""
    path = os.pathsep.join((str(ROOT / "handlers"), str(ROOT)))
    # Handlers that other tests loaded have set limits in this process.
    others = {name: value for name, value in os.environ.items() if "_CACHE_" not in name}
    environment = {**others, "PYTHONPATH": path, **variables}
    command = [sys.executable, "-W", "ignore", "-c", script, how]
    return list(map(int, subprocess.check_output(command, env=environment).split()))


def test_large_blocks_are_kept_for_the_next_ones_and_given_back() -> None:
    """64 MB, five times: the pages of them are new each time, or those of the one before."""
    free_faults, given_back = run_alone(LARGE, "free")
    assert given_back < 16 * 2**20
    faults, given_back = run_alone(LARGE, "kept")
    assert faults < 0.1 * free_faults
    assert given_back > 48 * 2**20
    # What the environment says stays.
    faults, _ = run_alone(LARGE, "kept", MALLOC_MMAP_THRESHOLD_="65536")
    assert faults > 0.9 * free_faults


PRODUCTS = """
import sys
import psutil
import torch
from speechtext.cpu.packed import PackedLinear
from speechtext.host_memory import limit_products, trim_freed

if sys.argv[1] == "limited":
    limit_products()
torch.set_num_threads(1)
layers = [PackedLinear(torch.randn(64 + 16 * each, 48), None) for each in range(4)]
process = psutil.Process()
with torch.inference_mode():
    layers[0](torch.randn(700, 48))
    before = process.memory_info().rss
    for rows in range(1, 300):
        for layer in layers:
            layer(torch.randn(rows, 48))
trim_freed()
print(process.memory_info().rss - before)
"""


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_PRODUCTS),
        ("LRU_CACHE_CAPACITY", KEPT_CONVOLUTIONS),
        ("TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT", KEPT_PLANS),
    ],
)
def test_limit_that_is_set_already_stays(
    monkeypatch: pytest.MonkeyPatch, name: str, kept: int
) -> None:
    monkeypatch.delenv(name, raising=False)
    limit_products()
    assert os.environ[name] == str(kept)
    monkeypatch.setenv(name, "7")
    limit_products()
    assert os.environ[name] == "7"


def test_code_for_products_of_many_shapes_is_limited() -> None:
    """Of 1,196 shapes, oneDNN keeps less, and ideep does: with either alone 0.65 of it is left."""
    (free,), (limited,) = run_alone(PRODUCTS, "free"), run_alone(PRODUCTS, "limited")
    assert free > 10 * 2**20
    assert limited < 0.45 * free
