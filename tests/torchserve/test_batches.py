"""The loop that answers each row of a batch on its own merits, measures it and reports it."""

import errno
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol.otf_message_handler import create_predict_response

import batches
from batches import Answer, Parts, answer_requests, dump_json
from repository import ROOT
from shutdown_gate import VARIABLE, close_gate, pass_gate
from speechtext.errors import ImpossibleRequestError
from speechtext.measurements import note_gauge, note_padding, note_size, stage
from support.common import make_context

# TorchServe does not close its metrics.yaml.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def parse_number(index: int, row: Mapping[str, Any]) -> int:
    if row["body"] < 0:
        raise ImpossibleRequestError("Negative", f"row {index}")
    return int(row["body"])


def test_each_row_gets_its_own_answer_in_order() -> None:
    context = make_context([{}] * 5)
    rows = [{"body": value} for value in (3, -1, 4, -1, 5)]
    answers = answer_requests(rows, context, parse_number, lambda values: [v * 10 for v in values])
    assert [answers[0], answers[2], answers[4]] == [30, 40, 50]
    assert answers[1] == {"code": 422, "type": "Negative", "message": "row 1"}
    statuses = [context.get_response_status(index)[0] for index in range(5)]
    assert statuses == [200, 422, 200, 422, 200]
    assert context.get_response_content_type(1) == "application/json"


def test_memory_that_runs_out_halves_the_batch() -> None:
    sizes = []

    def run(values: Sequence[int]) -> Sequence[int]:
        sizes.append(len(values))
        if len(values) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values

    rows = [{"body": value} for value in range(8)]
    assert answer_requests(rows, None, parse_number, run) == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


# More than any machine has.
TOO_MUCH_BYTES = 2**50


@torch.jit.script
def allocate_in_a_script(size: int) -> torch.Tensor:
    return torch.empty([size], dtype=torch.uint8)


@torch.jit.script
def fail_in_a_script(message: str) -> None:
    # CUDA out of memory: TorchScript quotes this line too.
    raise RuntimeError(message)


def fail_in_pytorch(message: str) -> None:
    raise RuntimeError(message)


def fail_in_libc(size: int) -> None:
    av.error.err_check(-errno.ENOMEM)


@pytest.mark.parametrize(
    "fail",
    [allocate_in_a_script, torch.empty, np.empty, fail_in_libc],
    ids=["TorchScript", "PyTorch", "NumPy", "FFmpeg"],
)
def test_memory_that_really_runs_out_is_recognised(fail: Callable[[int], Any]) -> None:
    assert code_of_failing(lambda: fail(TOO_MUCH_BYTES)) == 507


@pytest.mark.parametrize("fail", [fail_in_a_script, fail_in_pytorch])
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of", 507),
        ("CUDA out of memory. Tried to allocate more than 1EB memory.", 507),
        ("HIP out of memory. Tried to allocate 2.00 MiB (GPU 0; 15.98 GiB total capacity)", 507),
        ("XPU out of memory. Tried to allocate 2.00 GiB.", 507),
        ("MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1.37 MB)", 507),
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", 507),
        ("CUDA driver error: out of memory", 507),
        ("cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/generic", 507),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", 507),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", 507),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", 507),
        ("cuFFT error: CUFFT_ALLOC_FAILED", 507),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`", 507),
        (
            "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you",
            507,
        ),
        ("std::bad_alloc", 507),
        ("bad allocation", 507),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", 503),
        ("CUDA error: device-side assert triggered", 503),
        ("Expected a token, got 'CUDA out of memory. std::bad_alloc'", 503),
        ("The size of tensor a (3) must match the size of tensor b (4)", 503),
    ],
)
def test_memory_that_ran_out_is_told_from_other_failures(
    fail: Callable[[str], None], message: str, code: int
) -> None:
    assert code_of_failing(lambda: fail(message)) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 507),
        (MemoryError(), 507),
        (KeyError("CUDA out of memory"), 503),
        (ValueError("CUDA out of memory"), 503),
    ],
)
def test_class_of_an_exception_counts_before_its_text(error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    assert code_of_failing(fail) == code


def code_of_failing(fail: Callable[[], Any]) -> int:
    """Return the status of a request that fails so alone, between two that do not."""

    def run(values: Sequence[int]) -> Sequence[int]:
        if 7 in values:
            fail()
        return values

    context = make_context([{}] * 3)
    answers = answer_requests([{"body": v} for v in (1, 7, 2)], context, parse_number, run)
    assert (answers[0], answers[2]) == (1, 2)
    return int(answers[1]["code"])


def test_bug_is_logged_without_the_payload_and_spares_the_neighbours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(values: Sequence[int]) -> Sequence[int]:
        if 1234567 in values:
            raise KeyError(f"payload {values}")
        return values

    rows = [{"body": value} for value in (1, 1234567, 2)]
    with caplog.at_level(logging.DEBUG):
        answers = answer_requests(rows, None, parse_number, run)
    assert (answers[0], answers[1]["code"], answers[2]) == (1, 503, 2)
    assert "KeyError" in caplog.text
    assert "test_batches.py" in caplog.text
    assert "1234567" not in caplog.text + json.dumps(answers)


def test_model_that_loses_an_answer_is_a_bug_of_its_own() -> None:
    answers = answer_requests([{"body": 1}], None, parse_number, lambda values: [])
    assert answers[0]["code"] == 503


def test_no_rows_get_no_answers() -> None:
    assert answer_requests([], None, parse_number, lambda values: values) == []


def test_each_part_of_an_answer_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its batch failed on the way and is run again from the start."""
    sent: list[Any] = []
    context = make_context([{}, {}])
    context.request_ids = {0: "a", 1: "b"}
    monkeypatch.setattr(
        batches, "send_intermediate_predict_response", lambda *part: sent.append(part)
    )
    parts = Parts(context, 1, "text/event-stream")
    for number in (1, 2, 1, 2, 3):
        parts.send(number, f"part {number}")
    assert [each[0][1] for each in sent] == ["part 1", "part 2", "part 3"]
    assert sent[0] == ({1: "part 1"}, {1: "b"}, "Part", 200, context)
    assert context.get_response_headers(1) == {
        "content-type": "text/event-stream",
        "X-Content-Type-Options": "nosniff",
    }


@pytest.mark.parametrize(
    ("answer", "content_type"),
    [
        ("<script>", "text/plain; charset=utf-8"),
        (Answer("<p>", "text/html"), "text/html"),
        (Answer("plain", "text/plain"), "text/plain; charset=utf-8"),
        ({"label": 1}, "application/json"),
        ([["a", "B-PER"]], "application/json"),
        (0.5, "application/json"),
        (Answer(b"PNG", "image/png"), "image/png"),
    ],
)
def test_each_answer_says_what_it_is(answer: Any, content_type: str) -> None:
    context = make_context([{}])
    (content,) = answer_requests([{"body": 1}], context, parse_number, lambda values: [answer])
    assert content == (answer.content if isinstance(answer, Answer) else answer)
    headers = context.get_response_headers(0)
    assert headers == {"content-type": content_type, "X-Content-Type-Options": "nosniff"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_number_that_json_does_not_have_is_never_sent(
    odd: float, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context([{}] * 3)
    rows = [{"body": value} for value in (1, 2, 3)]
    answers = answer_requests(
        rows, context, parse_number, lambda values: [0.5, {"scores": [0.1, odd]}, [1]]
    )
    assert (answers[0], answers[1]["code"], answers[2]) == (0.5, 503, [1])
    assert context.get_response_status(1)[0] == 503
    assert "scores" not in caplog.text
    with pytest.raises(ValueError, match="JSON"):
        dump_json({"logprob": odd})


@pytest.mark.parametrize("odd", ["half \ud800", {"speaker": "\udfff\ud800"}])
def test_text_that_utf8_does_not_have_is_never_sent(odd: Any) -> None:
    context = make_context([{}] * 2)
    rows = [{"body": value} for value in (1, 2)]
    right, wrong = answer_requests(rows, context, parse_number, lambda values: ["right", odd])
    assert (right, wrong["code"]) == ("right", 503)
    create_predict_response([right, wrong], {0: "a", 1: "b"}, "", 200, context)


@pytest.fixture
def served() -> Iterator[Context]:
    """Yield the context of a worker that serves two requests, with the repository's metrics."""
    context = make_context([{}] * 2)
    context.request_ids = {0: "first", 1: "second"}
    context.metrics = MetricsCacheYamlImpl(str(ROOT / "metrics.yaml"))
    context.metrics.initialize_cache()
    context.cl_socket = SimpleNamespace(getsockname=lambda: "folder/.ts.sock.9003")
    yield context


def measure(index: int, row: Mapping[str, Any]) -> int:
    note_size(index, "audio_s", 2.0)
    return parse_number(index, row)


def run_measured(values: Sequence[int]) -> Sequence[int]:
    with stage("model"):
        note_padding(10, 4)
        note_padding(10, 6)
    note_gauge("LiveSessions", 3)
    return values


def test_batch_is_reported_in_a_line_per_request_and_in_metrics(
    served: Context, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer_requests([{"body": 7654321}, {"body": -1}], served, measure, run_measured)
    assert "7654321" not in caplog.text
    lines = [json.loads(each) for each in caplog.messages if each.startswith("{")]
    assert [each["request_id"] for each in lines] == ["first", "second"]
    assert [each["status"] for each in lines] == [200, 422]
    assert {each["model"] for each in lines} == {"model"}
    assert {each["audio_s"] for each in lines} == {2.0}
    assert lines[0]["parse_ms"] >= 0
    assert lines[0]["model_ms"] >= 0
    said = [each.split("|#hostname")[0] for each in caplog.messages if "[METRICS]" in each]
    for expected in (
        "Answers.Count:1|#ModelName:model,Status:200|#type:COUNTER",
        "Answers.Count:1|#ModelName:model,Status:422|#type:COUNTER",
        "AudioSeconds.Seconds:4.0|#ModelName:model|#type:COUNTER",
        "BatchSize.Count:2|#ModelName:model,Worker:9003|#type:GAUGE",
        "PaddingWaste.Percent:50.0|#ModelName:model,Worker:9003|#type:GAUGE",
        "LiveSessions.Count:3|#ModelName:model,Worker:9003|#type:GAUGE",
    ):
        assert f"[METRICS]{expected}" in said
    assert any(each.startswith("[METRICS]RealTimeFactor.ratio:") for each in said)


def test_server_that_names_no_metrics_gets_none(
    served: Context, caplog: pytest.LogCaptureFixture
) -> None:
    served.metrics.cache.clear()
    with caplog.at_level(logging.INFO):
        assert answer_requests([{"body": 1}, {"body": 2}], served, measure, run_measured) == [1, 2]
    assert "[METRICS]" not in caplog.text


def test_grpc_streams_are_told_that_the_answer_is_all(served: Context) -> None:
    """TorchServe 0.12 ends a stream's worker without; HTTP would take it for a stream's end."""
    served.request_processor = [
        RequestProcessor(headers) for headers in ({"explain": "False"}, {"explain": {"x": "y"}})
    ]
    answer_requests([{"body": 1}, {"body": -1}], served, measure, run_measured)
    told = [served.get_response_headers(index).get("ts_stream_next") for index in range(2)]
    assert told == [None, "false"]


def test_what_is_measured_outside_of_a_batch_is_nobodys() -> None:
    measure(0, {"body": 1})
    assert run_measured([1]) == [1]


def test_closed_gate_waits_for_what_runs_and_refuses_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    monkeypatch.setenv(VARIABLE, str(gate))
    began, go_on = threading.Event(), threading.Event()

    def run(values: Sequence[int]) -> Sequence[int]:
        began.set()
        assert go_on.wait(10)
        return values

    answers: list[Any] = []
    batch = threading.Thread(
        target=lambda: answers.extend(answer_requests([{"body": 1}], None, parse_number, run))
    )
    batch.start()
    assert began.wait(10)
    assert not close_gate(gate, 0.1)
    go_on.set()
    assert close_gate(gate, 10)
    batch.join()
    assert answers == [1]
    context = make_context([{}])
    (refused,) = answer_requests([{"body": 2}], context, parse_number, run)
    assert (refused["code"], refused["type"]) == (503, "ServerStopping")
    assert context.get_response_headers(0)["Retry-After"] == "5"


def test_gate_is_open_where_nobody_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pass_gate() as is_open:
        assert is_open
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    with pass_gate() as is_open:
        assert is_open
