"""JSON of which it is known before it is parsed how much is in it."""

import json
from typing import Any

from gateway.engine import RequestTooLargeError

# More than 1024 instances with their parameters have; an empty list alone takes 300 bytes.
MOST_VALUES = 100_000


def parse_json(content: str | bytes) -> Any:
    """Return what JSON says; bytes are UTF-8, with or without a byte order mark.

    Raises `RequestTooLargeError` for too many values, and `ValueError` or `RecursionError` for what
    is no JSON.
    """
    check_values(content.encode() if isinstance(content, str) else content)
    # Python itself would read UTF-16 and UTF-32, too, whose values are not counted.
    return json.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))


def check_values(content: bytes) -> None:
    """Raise `RequestTooLargeError` for JSON of more than `MOST_VALUES` values."""
    if count_values(content) > MOST_VALUES:
        raise RequestTooLargeError(
            "TooManyValues", f"Expected JSON of at most {MOST_VALUES} values, got more."
        )


def count_values(content: bytes) -> int:
    """Return how many values JSON has at most.

    Where those are many, what is inside of strings is left out. What is no JSON from some place on
    is counted right up to there.
    """
    most = _count_marks(content)
    if most <= MOST_VALUES:
        return most
    # RFC 8259, section 7: a quotation mark is the end of a string unless a backslash is before it.
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = bare.count(b'"')
    if quotes > 4 * MOST_VALUES:
        return quotes
    return _count_marks(b"".join(bare.split(b'"')[::2]))


def _count_marks(content: bytes) -> int:
    return 1 + sum(content.count(each) for each in (b",", b"[", b"{"))
