"""Devices, settings, payloads and the loop that answers each row of a batch on its own merits."""

import json
import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor

from ctc_recognition import Wav2Vec2Settings
from device_io import (
    Parts,
    RequestError,
    answer_requests,
    as_fields,
    as_text,
    choose_device,
    choose_dtype,
    read_settings,
    request_audio,
    request_body,
    request_header,
)

CPU = torch.device("cpu")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def make_context(headers: Sequence[Mapping[str, str]]) -> Context:
    context = Context("model", "folder", {}, len(headers), None, "0.12")
    context.request_processor = [RequestProcessor(dict(each)) for each in headers]
    return context


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


def test_settings_have_defaults_and_leave_the_configuration_alone() -> None:
    config = {"handler": {"max_audio_seconds": 5}}
    before = json.dumps(config)
    settings = read_settings(Wav2Vec2Settings, config, "handler")
    assert (settings.max_audio_seconds, settings.dtype) == (5.0, "float32")
    assert json.dumps(config) == before
    assert read_settings(Wav2Vec2Settings, None, "handler") == Wav2Vec2Settings()


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        ({"max_audio_second": 5}, ["max_audio_second: unknown key"]),
        ({"dtype": "float8"}, ["dtype", "'float8'", "bfloat16"]),
        ({"threads": "two"}, ["threads", "'two'"]),
    ],
)
def test_mistaken_settings_name_key_value_and_choices(
    handler: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValueError, match="handler") as caught:
        read_settings(Wav2Vec2Settings, {"handler": handler}, "handler")
    assert all(part in str(caught.value) for part in named)


@pytest.mark.parametrize(
    "row",
    [
        {"body": bytearray(b"RIFF")},
        {"file": b"RIFF"},
        {"body": {"data": "UklGRg=="}},
        {"body": {"file": "UklG\r\nRg==\n"}},
    ],
)
def test_recording_comes_in_any_of_its_forms(row: dict[str, Any]) -> None:
    assert request_audio(row) == b"RIFF"


@pytest.mark.parametrize(
    ("row", "status", "kind"),
    [
        ({"body": "RIFF"}, 415, "UnsupportedAudio"),
        ({"body": {"data": "not base64!"}}, 400, "InvalidBase64"),
        ({"body": {"data": 7}}, 400, "InvalidBase64"),
        ({"body": {"audio": "UklGRg=="}}, 400, "MissingPayload"),
    ],
)
def test_what_holds_no_recording_is_refused(row: dict[str, Any], status: int, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_audio(row)
    assert (caught.value.status, caught.value.kind) == (status, kind)


@pytest.mark.parametrize("row", [{}, {"data": None}, {"body": b""}, {"body": ""}, {"other": b"x"}])
def test_row_without_payload_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        request_body(row)
    assert caught.value.status == 400


def test_payload_comes_from_data_or_body() -> None:
    assert request_body({"data": b"a", "body": b"b"}) == b"a"
    assert request_body({"body": {"text": "b"}}) == {"text": "b"}


def test_bytes_that_are_not_utf8_are_refused_without_repeating_them() -> None:
    with pytest.raises(RequestError) as caught:
        as_text(b"secret\xff")
    assert caught.value.status == 400
    assert "secret" not in caught.value.message


@given(JSON_VALUES, st.booleans())
def test_fields_are_read_as_json_has_them(value: Any, declared_json: bool) -> None:
    payload = json.dumps(value).encode()
    if isinstance(value, dict):
        assert as_fields(payload, declared_json) == value
    elif not declared_json:
        assert as_fields(payload, declared_json) == payload.decode()
    elif isinstance(value, str):
        assert as_fields(payload, declared_json) == value
    else:
        with pytest.raises(RequestError):
            as_fields(payload, declared_json)


@given(st.text() | st.binary(), st.booleans())
def test_any_payload_is_read_or_refused(payload: str | bytes, declared_json: bool) -> None:
    try:
        assert isinstance(as_fields(payload, declared_json), str | dict)
    except RequestError as error:
        assert error.status == 400


def test_python_literals_of_older_clients_are_read() -> None:
    assert as_fields(b"{'question': 'who', 'context': \"it's Ann\"}", True)["question"] == "who"  # type: ignore[index]


def test_nesting_that_no_parser_survives_is_refused() -> None:
    with pytest.raises(RequestError):
        as_fields(b"{'a': " * 100_000, True)


def test_text_that_torchserve_read_out_of_json_is_text() -> None:
    assert as_fields("The waiter was rude.", True) == "The waiter was rude."


def test_header_names_have_any_case() -> None:
    context = make_context([{"accept": "text/plain"}])
    assert request_header(context, 0, "Accept") == "text/plain"
    assert request_header(context, 0, "explain") is None


def parse_number(index: int, row: Mapping[str, Any]) -> int:
    if row["body"] < 0:
        raise RequestError(422, "Negative", f"row {index}")
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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_request_that_does_not_fit_alone_fails_alone(error: Exception) -> None:
    def run(values: Sequence[int]) -> Sequence[int]:
        if 7 in values:
            raise error
        return values

    context = make_context([{}] * 3)
    answers = answer_requests([{"body": v} for v in (1, 7, 2)], context, parse_number, run)
    assert (answers[0], answers[1]["code"], answers[2]) == (1, 507, 2)


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
    assert "test_device_io.py" in caplog.text
    assert "1234567" not in caplog.text + json.dumps(answers)


def test_model_that_loses_an_answer_is_a_bug_of_its_own() -> None:
    answers = answer_requests([{"body": 1}], None, parse_number, lambda values: [])
    assert answers[0]["code"] == 503


def test_no_rows_get_no_answers() -> None:
    assert answer_requests([], None, parse_number, lambda values: values) == []


def test_each_part_of_an_answer_is_sent_once() -> None:
    """Also where its batch failed on the way and is run again from the start."""
    sent: list[Any] = []
    context = SimpleNamespace(
        request_ids={0: "a", 1: "b"}, set_response_content_type=lambda *kind: sent.append(kind)
    )
    parts = Parts(lambda *part: sent.append(part), context, 1, "text/event-stream")
    for number in (1, 2, 1, 2, 3):
        parts.tell(number, f"part {number}")
    messages = [each[0][1] for each in sent if isinstance(each[0], dict)]
    assert messages == ["part 1", "part 2", "part 3"]
    assert sent[0] == (1, "text/event-stream")
    assert sent[1] == ({1: "part 1"}, {1: "b"}, "Part", 200, context)
