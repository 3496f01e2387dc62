"""Which device, dtype and threads a model gets."""

import gc
import os
from contextlib import suppress
from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

CPU = torch.device("cpu")
# cuBLAS and cuDNN multiply bfloat16 natively from Ampere on.
FIRST_BFLOAT16_CUDA_CAPABILITY = (8, 0)


def choose_device(gpu_id: int | None) -> torch.device:
    """Return the GPU of that number, the machine's own accelerator on a Mac, else the CPU."""
    if gpu_id is None or gpu_id < 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def prepare_device(device: torch.device) -> None:
    """Let a GPU compute float32 as the CPU does, and be the one that this thread means.

    Otherwise cuDNN multiplies float32 with a 10-bit mantissa (TF32), and operations that name no
    GPU run on the first.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.cuda.set_device(device)


def free_memory() -> None:
    """Give back what nobody has any more, and the memory of a GPU that PyTorch keeps for later.

    A GPU that is lost has nothing to give, and says so when it is asked for something else.
    """
    gc.collect()
    if torch.accelerator.is_available():
        with suppress(torch.AcceleratorError):
            torch.accelerator.empty_cache()


def is_lost() -> bool:
    """Tell whether a GPU refuses whatever it is asked, as after an illegal access.

    CUDA's documents say of such errors that the process must be ended and started again.
    """
    try:
        torch.accelerator.synchronize()
    except RuntimeError:
        return True
    return False


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the model's dtype: `auto` is bfloat16 where the hardware multiplies it natively."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether `device` has bfloat16 matrix instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_BFLOAT16_CUDA_CAPABILITY
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def count_cores() -> int:
    """Return how many cores this process may use, or all of the machine's where it cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(threads: int | None, workers: int = 1) -> None:
    """Give this process `threads` intra-op threads, by default its share of the cores.

    `workers` processes share the machine.
    """
    torch.set_num_threads(threads or max(1, count_cores() // max(1, workers)))
