"""Batches that fail are run in halves, what a client is told of it, and what runs together."""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from speechtext.batching import GPU_BATCH_SAMPLES, plan_batches, plan_groups
from speechtext.errors import (
    DeadlineError,
    DeviceLostError,
    ImpossibleRequestError,
    InternalError,
    NonFiniteOutputError,
    OutOfMemoryError,
)
from speechtext.failures import (
    REPLACED_S,
    as_request_error,
    is_out_of_memory,
    run_isolated,
    run_smaller,
)

PAYLOAD = "the payload of a request"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
# Of TorchScript: what it raises where an operator or a script's own line fails.
SCRIPT = "The following operation failed in the TorchScript interpreter.\nTraceback of it:\n"


class Batches:
    """Doubles numbers and remembers the batches; one with a number of `bad` fails."""

    def __init__(self, *bad: int, error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or ValueError(PAYLOAD)
        self.seen: list[list[int]] = []

    def __call__(self, requests: Sequence[int]) -> list[int]:
        """Return the numbers doubled."""
        self.seen.append(list(requests))
        if set(self.bad) & set(requests):
            raise self.error
        return [2 * each for each in requests]


def test_good_batch_runs_once() -> None:
    run = Batches()
    assert run_isolated(run, (3, 1, 2)) == [6, 2, 4]
    assert run.seen == [[3, 1, 2]]


def test_nothing_is_not_run() -> None:
    run = Batches()
    assert run_isolated(run, []) == []
    assert run.seen == []


def test_halves_are_run_down_to_the_request_at_fault() -> None:
    run = Batches(3)
    found = run_isolated(run, [0, 1, 2, 3, 4])
    assert [found[place] for place in (0, 1, 2, 4)] == [0, 2, 4, 8]
    assert isinstance(found[3], InternalError)
    assert run.seen == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [3], [4]]


def test_error_of_a_request_is_its_answer() -> None:
    refusal = ImpossibleRequestError("Impossible", "Expected less.")
    assert run_isolated(Batches(2, error=refusal), [1, 2]) == [2, refusal]


def test_deadline_is_that_of_all() -> None:
    late = DeadlineError("TookTooLong", "Expected less.")
    run = Batches(2, error=late)
    assert run_isolated(run, [1, 2, 3]) == [late] * 3
    assert len(run.seen) == 1


@pytest.mark.parametrize("answers", [[], [1], [1, 2, 3]])
def test_other_number_of_answers_is_an_internal_error(
    answers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    found = run_isolated(lambda _: answers, [0, 0])
    expected = [1, 1] if len(answers) == 1 else [InternalError, InternalError]
    assert [each if isinstance(each, int) else type(each) for each in found] == expected
    # Of the two halves only those that have another number themselves are told of.
    told = [record for record in caplog.records if "Unexpected RuntimeError" in record.message]
    assert len(told) == (0 if len(answers) == 1 else 2)


def test_batch_that_does_not_fit_is_run_in_halves() -> None:
    seen: list[int] = []

    def run(requests: Sequence[int]) -> Sequence[int]:
        seen.append(len(requests))
        if len(requests) > 2:
            raise MemoryError
        return requests

    assert run_isolated(run, list(range(7))) == list(range(7))
    assert seen == [7, 3, 1, 2, 4, 2, 2]


@pytest.mark.parametrize(("rows", "asked"), [(7, [7, 3, 1]), (2, [2, 1]), (1, [1])])
def test_rows_are_halved_down_to_one(rows: int, asked: list[int]) -> None:
    seen: list[int] = []

    def run(count: int) -> str:
        seen.append(count)
        if count > 1:
            raise MemoryError
        return f"in parts of {count}"

    assert run_smaller(run, rows) == "in parts of 1"
    assert seen == asked


@pytest.mark.parametrize(("error", "asked"), [(MemoryError(), [3, 1]), (KeyError("x"), [3])])
def test_rows_that_never_fit_and_other_faults_are_raised(
    error: Exception, asked: list[int]
) -> None:
    seen: list[int] = []

    def run(count: int) -> Any:
        seen.append(count)
        raise error

    with pytest.raises(type(error)) as raised:
        run_smaller(run, 3)
    assert raised.value is error
    assert seen == asked


def test_client_is_told_where_to_look_and_the_log_what_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_here() -> None:
        raise ValueError(PAYLOAD)

    with pytest.raises(ValueError, match=PAYLOAD) as raised:
        fail_here()
    with caplog.at_level(logging.ERROR):
        told = as_request_error(raised.value)
    assert isinstance(told, InternalError)
    assert told.kind == "InternalError"
    assert told.message == "The server failed to answer this request; its log says where."
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith("Unexpected ValueError while answering a request:\n")
    assert "in fail_here" in record.message
    assert __file__ in record.message
    # A payload that an exception quotes is in no log.
    assert PAYLOAD not in record.message


@pytest.mark.parametrize("error", [MemoryError(PAYLOAD), torch.OutOfMemoryError(PAYLOAD)])
def test_client_is_told_to_send_less(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    told = as_request_error(error)
    assert isinstance(told, OutOfMemoryError)
    assert told.kind == "OutOfMemory"
    assert told.message == (
        "Expected a request that fits in this worker's memory; this one alone does not. "
        "Send a shorter one."
    )
    assert caplog.records == []


def test_numbers_that_are_none_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = NonFiniteOutputError("NonFiniteOutput", "Expected numbers.")
    with caplog.at_level(logging.ERROR):
        assert as_request_error(error) is error
        assert as_request_error(ImpossibleRequestError("Kind", "Expected less.")).kind == "Kind"
    assert [record.message for record in caplog.records] == [
        "The model gave NaN or infinite numbers for a request."
    ]


@pytest.mark.parametrize(
    ("error", "lost", "told"),
    [
        (torch.AcceleratorError("CUDA error: illegal memory access"), True, DeviceLostError),
        (torch.AcceleratorError("CUDA error: invalid argument"), False, InternalError),
        (RuntimeError("CUDA error: illegal memory access"), True, InternalError),
    ],
)
def test_only_a_gpu_that_answers_nothing_is_lost(
    error: Exception, lost: bool, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if lost:
            raise RuntimeError("CUDA error: illegal memory access")

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    found = as_request_error(error)
    assert type(found) is told
    if isinstance(found, DeviceLostError):
        assert found.kind == "DeviceLost"
        assert found.message == (
            "Expected a working GPU; this worker's has failed, and the worker is being replaced. "
            "Try again."
        )
        assert found.retry_after_s == REPLACED_S


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuSOLVER error: CUSOLVER_STATUS_ALLOC_FAILED, when calling it"),
        RuntimeError("HIP error: HIPBLAS_STATUS_ALLOCATION_FAILED"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8 bytes."
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("could not execute a primitive"),
        RuntimeError(
            f"{SCRIPT}    x = y\n    ~ <--- HERE\nRuntimeError: could not create a primitive\n"
        ),
        RuntimeError(f"{SCRIPT}    x = y\n        ~ <--- HERE\nRuntimeError: CUDA out of memory."),
        RuntimeError(f"{SCRIPT}    x = y\n        ~ <--- HERE\nstd::bad_alloc"),
        torch.jit.Error(f"{SCRIPT}    x = y\n      ~ <--- HERE\nMemoryError: bad allocation"),
        torch.jit.Error("CUDA out of memory."),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[-40:]!r}",
)
def test_memory_that_ran_out_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert isinstance(as_request_error(error), OutOfMemoryError)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory."),
        Exception("CUDA out of memory."),
        RuntimeError("no word: 'CUDA out of memory.'"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA out of memoryless"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive. Run"),
        RuntimeError(f"{SCRIPT}    x = y\n  ~ <--- HERE\nRuntimeError: no word: std::bad_alloc"),
        torch.jit.Error(f"{SCRIPT}    x = 'std::bad_alloc'\n  ~ <--- HERE\nValueError: other"),
        RuntimeError(""),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[-40:]!r}",
)
def test_text_that_only_quotes_such_a_fault_is_none(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert isinstance(as_request_error(error), InternalError)


def test_torchscript_that_runs_out_of_memory_is_recognised() -> None:
    @torch.jit.script
    def take(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8)

    with pytest.raises(RuntimeError) as raised:
        take(2**60)
    assert is_out_of_memory(raised.value)


def test_groups_are_in_the_order_of_their_lengths() -> None:
    # By hand: a call costs 4; 9 and 8 with one another 18 + 4, apart 17 + 8; 1 and 2 as well.
    assert plan_groups([9, 1, 8, 2], 20, 4) == [[1, 3], [2, 0]]
    # A call that costs nothing: only rows of one length are together.
    assert plan_groups([5, 3, 5, 3], 100, 0) == [[1, 3], [0, 2]]
    assert plan_groups([1, 2, 3], 100, 1000) == [[0, 1, 2]]


def test_rows_of_no_tokens_and_rows_that_are_too_long_run_all_the_same() -> None:
    assert plan_groups([0, 0, 0], 2, 1) == [[0], [1, 2]]
    assert plan_groups([50, 60], 10, 1000) == [[0], [1]]
    assert plan_groups([4], 0, 0) == [[0]]


def test_processor_gets_one_waveform_at_a_time() -> None:
    assert plan_batches([5, 5, 7], CPU) == [[0], [1], [2]]
    assert plan_batches([], GPU) == []


@pytest.mark.parametrize(
    ("samples", "pads", "expected"),
    [
        # Longest first, and equal ones in their order.
        ([3, 9, 9, 4], True, [[1, 2, 3, 0]]),
        # Padded to the longest, two of them fill a GPU exactly.
        ([GPU_BATCH_SAMPLES // 2, 1, GPU_BATCH_SAMPLES // 2], True, [[0, 2], [1]]),
        ([GPU_BATCH_SAMPLES // 2 + 1, 1, 2], True, [[0], [2, 1]]),
        ([GPU_BATCH_SAMPLES + 1, GPU_BATCH_SAMPLES + 1], True, [[0], [1]]),
        # A model that pads none gets those of one length.
        ([3, 9, 3, 9, 4], False, [[1, 3], [4], [0, 2]]),
    ],
)
def test_gpu_gets_waveforms_of_like_length_together(
    samples: list[int], pads: bool, expected: list[list[int]]
) -> None:
    assert plan_batches(samples, GPU, pads) == expected
    if pads:
        assert plan_batches(samples, GPU) == expected
    padded = [len(batch) * max(samples[each] for each in batch) for batch in expected]
    assert all(
        len(batch) == 1 or size <= GPU_BATCH_SAMPLES
        for batch, size in zip(expected, padded, strict=True)
    )
    assert sorted(itertools.chain(*expected)) == list(range(len(samples)))
