"""JSON bodies in their shape, of which it is known before they are parsed how much is in them."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from gateway.engine import MalformedRequestError, RequestTooLargeError
from gateway.errors import describe_problems

Shape = TypeVar("Shape")
# More than 1024 instances with their parameters have; an empty list alone takes 300 bytes.
MOST_VALUES = 100_000
# Of a body with many mistakes, so many are told.
MOST_TOLD = 5


def read_json(shape: TypeAdapter[Shape], content: bytes) -> Shape:
    """Return a body in its shape; raises `EngineError`, which repeats nothing of it."""
    if count_values(content) > MOST_VALUES:
        raise RequestTooLargeError(
            "TooManyValues", f"Expected JSON of at most {MOST_VALUES} values, got more."
        )
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        raise MalformedRequestError(
            "MalformedRequest", f"Expected a request. {describe_problems(problems[:MOST_TOLD])}"
        ) from None


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
