"""Whether an answer is what its `Content-Type` says that it is."""

import json
from collections.abc import Callable, Mapping
from typing import Any

PNG = b"\x89PNG\r\n\x1a\n"


def find_false_form(content_type: str, body: bytes) -> str | None:
    """Return what is wrong with the form of an answer, None where nothing is."""
    media_type = content_type.partition(";")[0].strip()
    check = FORMS.get(media_type)
    if check is None:
        return f"an answer of {content_type or 'no Content-Type'}"
    try:
        check(body)
    except ValueError:
        return f"an answer that is no {media_type}"
    return None


def _refuse(constant: str) -> Any:
    # What JSON does not have: RFC 8259, section 6.
    raise ValueError(constant)


def _check_json(body: bytes) -> None:
    json.loads(body.decode("utf-8"), parse_constant=_refuse)


def _check_lines(body: bytes) -> None:
    for line in body.splitlines():
        _check_json(line)


def _check_events(body: bytes) -> None:
    for event in filter(None, body.split(b"\n\n")):
        if not event.startswith(b"data:"):
            raise ValueError(event)
        _check_json(event.removeprefix(b"data:"))


def _check_text(body: bytes) -> None:
    body.decode("utf-8")


def _check_subtitles(body: bytes) -> None:
    if not body.decode("utf-8").startswith("WEBVTT"):
        raise ValueError(body)


def _check_page(body: bytes) -> None:
    if not body.decode("utf-8").lstrip().lower().startswith("<!doctype html"):
        raise ValueError(body)


def _check_picture(body: bytes) -> None:
    if not body.startswith(PNG):
        raise ValueError(body)


FORMS: Mapping[str, Callable[[bytes], None]] = {
    "application/json": _check_json,
    "application/x-ndjson": _check_lines,
    "application/x-subrip": _check_text,
    "image/png": _check_picture,
    "text/event-stream": _check_events,
    "text/html": _check_page,
    "text/plain": _check_text,
    "text/vtt": _check_subtitles,
}
