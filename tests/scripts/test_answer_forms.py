"""An answer that is not what it says is found, and no other."""

import pytest

from trials.answer_forms import PNG, find_false_form

JSON = "application/json"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b'{"a": [1.5, null]}'),
        ("application/json; charset=utf-8", "\u00e9".join('""').encode()),
        ("application/x-ndjson", b'{"a": 1}\n{"b": 2}\n'),
        ("text/event-stream", b'data:{"index": 1}\n\ndata:{"index": 2}\n\n'),
        ("text/plain; charset=utf-8", "Caf\u00e9".encode()),
        ("text/vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi\n"),
        ("text/html", b"<!doctype html><title>x</title>"),
        ("image/png", PNG + b"rest"),
    ],
)
def test_answer_is_what_it_says(content_type: str, body: bytes) -> None:
    assert find_false_form(content_type, body) is None


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b'{"a": NaN}'),
        (JSON, b'{"a": -Infinity}'),
        (JSON, b'{"a": 1'),
        (JSON, b"\xff"),
        ("application/x-ndjson", b'{"a": 1}\n{"b"\n'),
        ("text/event-stream", b'{"index": 1}\n\n'),
        ("text/event-stream", b'data:{"index": NaN}\n\n'),
        ("text/plain", b"\xff"),
        ("text/vtt", b"Hi\n"),
        ("text/html", b"Hi\n"),
        ("image/png", b"Hi"),
        ("", b"Hi"),
        ("application/octet-stream", b"Hi"),
    ],
)
def test_answer_is_not_what_it_says(content_type: str, body: bytes) -> None:
    assert find_false_form(content_type, body)
