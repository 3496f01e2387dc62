"""Devices, settings, payloads and headers."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches import status_of
from device_io import (
    preferred_media_type,
    request_audio,
    request_body,
    request_header,
    request_headers,
)
from repository import ROOT
from speechtext.errors import RequestError
from speechtext.payloads import as_fields, as_text
from support.common import make_context

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


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
    assert (status_of(caught.value), caught.value.kind) == (status, kind)


@pytest.mark.parametrize("row", [{}, {"data": None}, {"body": b""}, {"body": ""}, {"other": b"x"}])
def test_row_without_payload_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        request_body(row)
    assert status_of(caught.value) == 400


def test_payload_comes_from_data_or_body() -> None:
    assert request_body({"data": b"a", "body": b"b"}) == b"a"
    assert request_body({"body": {"text": "b"}}) == {"text": "b"}


def test_bytes_that_are_not_utf8_are_refused_without_repeating_them() -> None:
    with pytest.raises(RequestError) as caught:
        as_text(b"secret\xff")
    assert status_of(caught.value) == 400
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
        assert status_of(error) == 400


def test_python_literals_of_older_clients_are_read() -> None:
    assert as_fields(b"{'question': 'who', 'context': \"it's Ann\"}", True)["question"] == "who"  # type: ignore[index]


def test_odd_spelling_of_a_literal_is_read_without_a_word() -> None:
    """In a process of its own, with all warnings: Python's quote what they are about."""
    payload = r"{'text': 'a\\q b', 'n': 1if 1 else 2, 'more': b'\\u'}"
    ask = (
        f"from speechtext.payloads import as_fields; as_fields({payload!r}, False);"
        r"""print(as_fields(r"{'text': 'a\q'}", True)['text'])"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", ask],
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT / "handlers",
    )
    assert (done.stdout, done.stderr) == ("a\\q\n", "")


def test_nesting_that_no_parser_survives_is_refused() -> None:
    with pytest.raises(RequestError):
        as_fields(b"{'a': " * 100_000, True)


@pytest.mark.parametrize("payload", [b"{{}}", b"{[1]}", b"{{1}, 2}"])
def test_literal_that_python_cannot_make_is_no_object(payload: bytes) -> None:
    assert as_fields(payload, False) == payload.decode()
    with pytest.raises(RequestError) as refused:
        as_fields(payload, True)
    assert refused.value.kind == "MalformedJson"


def test_text_that_torchserve_read_out_of_json_is_text() -> None:
    assert as_fields("The waiter was rude.", True) == "The waiter was rude."


def test_header_names_have_any_case() -> None:
    context = make_context([{"accept": "text/plain"}])
    assert request_header(context, 0, "Accept") == "text/plain"
    assert request_header(context, 0, "explain") is None


def test_field_of_a_form_is_not_a_header() -> None:
    """TorchServe's own look-up puts both into one mapping."""
    field = {"content-type": "text/plain"}
    context = make_context([{"Accept": field, "accept": "text/html", "host": field}])  # type: ignore[dict-item]
    assert request_header(context, 0, "accept") == "text/html"
    assert request_header(context, 0, "host") is None
    assert request_headers(context, 0) == {"accept": "text/html"}


MEDIA_TYPES = ("application/json", "text/html", "image/png")


@given(st.text() | st.lists(st.sampled_from(MEDIA_TYPES) | st.text("q=,;.01infa")).map(";".join))
def test_any_accept_header_chooses_a_media_type_that_there_is(accept: str) -> None:
    assert preferred_media_type(accept, MEDIA_TYPES) in MEDIA_TYPES


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "text/html"),
        ("text/html;q=0.2, image/png;q=0.9", "image/png"),
        ("Image/PNG; q=0.1, application/json; q=0", "image/png"),
        ("text/html;q=nan", "application/json"),
        ("image/*", "image/png"),
        ("text/*;q=0.5, */*;q=0.1", "text/html"),
        ("image/*;q=0.5, image/png;q=0.1, text/html;q=0.3", "text/html"),
        ("application/json;q=0, text/*", "text/html"),
        ("text/html; charset=utf-8", "text/html"),
        ("application/json, text/plain, */*", "application/json"),
        ("audio/*", "application/json"),
    ],
)
def test_media_type_of_most_weight_is_chosen(accept: str, preferred: str) -> None:
    assert preferred_media_type(accept, MEDIA_TYPES) == preferred
