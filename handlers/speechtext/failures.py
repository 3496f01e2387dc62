"""What a failure is to a client, and how a batch is run so that only one request fails."""

import logging
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from speechtext.devices import free_memory, is_lost
from speechtext.errors import (
    DeadlineError,
    DeviceLostError,
    InternalError,
    NonFiniteOutputError,
    OutOfMemoryError,
    RequestError,
)

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
# After how many seconds another worker may be there.
REPLACED_S = 10
# TorchScript's text of an exception: where it was raised, a mark, and then the exception's own.
SCRIPTED = re.compile(r".*<--- HERE\n(?:[\w.]+: )?", re.DOTALL)
# What PyTorch says of memory in an exception that has no class for it. Its allocators: c10/cuda,
# c10/xpu, aten/src/ATen/mps, c10/core/impl/alloc_cpu.cpp (on Windows too); what it calls: CUDA,
# cuBLAS, cuDNN, cuFFT, cuSOLVER, their likes of ROCm, and C++ itself. oneDNN says only what it
# could not do: a product that is described can be made and run, unless memory ends
# (uxlfoundation/oneDNN#914).
NO_MEMORY_LEFT = re.compile(
    r"(?:\w+(?: backend)?|\w+(?: driver)? error:) out of memory\b"
    r"|\w+ error: \w+_ALLOC(?:ATION)?_FAILED\b"
    r"|\w+ runtime error \(2\)"
    r"|(?:\[enforce fail at .*)?DefaultCPUAllocator: (?:can't allocate|not enough) memory"
    r"|std::bad_alloc|bad allocation"
    r"|could not (?:create a (?:primitive|memory(?: object)?)|execute a primitive)\s*$",
    re.IGNORECASE,
)


def run_isolated(
    run: Callable[[Sequence[Request]], Sequence[Any]], requests: Sequence[Request]
) -> list[Any]:
    """Return an answer or a `RequestError` for each request of a batch, in order.

    `run` answers all of them together. Where that fails, its halves are run, down to the single
    requests at fault.
    """
    if not requests:
        return []
    try:
        answers = list(run(requests))
        if len(answers) != len(requests):
            raise RuntimeError(f"{len(requests)} requests gave {len(answers)} answers")
        return answers
    except DeadlineError as error:
        return [error] * len(requests)
    except Exception as error:
        if len(requests) == 1:
            return [as_request_error(error)]
    # Outside the except block: the traceback would keep the failed batch's tensors alive.
    free_memory()
    half = len(requests) // 2
    return run_isolated(run, requests[:half]) + run_isolated(run, requests[half:])


def run_smaller(run: Callable[[int], Answer], rows: int) -> Answer:
    """Return what `run` gives with so many rows at once, or with as many as there is memory for.

    What it raises when it has a single row, or for another reason, goes on.
    """
    while True:
        try:
            return run(rows)
        except Exception as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        free_memory()
        rows //= 2


def as_request_error(error: Exception) -> RequestError:
    """Return what a client is told of an exception; the log gets what it is not told."""
    if isinstance(error, NonFiniteOutputError):
        # Once for each request: a batch that has one is run again in halves.
        logger.error("The model gave NaN or infinite numbers for a request.")
    if isinstance(error, RequestError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "OutOfMemory",
            "Expected a request that fits in this worker's memory; this one alone does not. "
            "Send a shorter one.",
        )
    # The exception's own text may quote the payload, so the log gets its type and place only.
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("Unexpected %s while answering a request:\n%s", type(error).__name__, places)
    if isinstance(error, torch.AcceleratorError) and is_lost():
        return DeviceLostError(
            "DeviceLost",
            "Expected a working GPU; this worker's has failed, and the worker is being replaced. "
            "Try again.",
            retry_after_s=REPLACED_S,
        )
    return InternalError(
        "InternalError", "The server failed to answer this request; its log says where."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception means that memory ran out, on the GPU or on the host.

    PyTorch has a class for the former, which TorchScript turns into the text of another. Only the
    beginning of that text counts: further on it may quote a request.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch.jit.Error, where a script raises by itself, derives from Exception.
    if not isinstance(error, RuntimeError | torch.jit.Error):
        return False
    text = str(error)
    scripted = SCRIPTED.match(text)
    return NO_MEMORY_LEFT.match(text, scripted.end() if scripted else 0) is not None
