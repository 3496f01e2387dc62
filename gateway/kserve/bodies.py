"""JSON bodies in their shape, of which it is known before they are parsed how much is in them."""

import codecs
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from gateway.engine import MalformedRequestError
from gateway.errors import describe_problems
from gateway.json_size import check_values

Shape = TypeVar("Shape")
# Mistakes reported for one body, at most.
MOST_TOLD = 5


def read_json(shape: TypeAdapter[Shape], content: bytes) -> Shape:
    """Return a body in its shape; raises `EngineError`, which repeats nothing of it."""
    check_values(content)
    try:
        return shape.validate_json(content.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        raise MalformedRequestError(
            "MalformedRequest", f"Expected a request. {describe_problems(problems[:MOST_TOLD])}"
        ) from None
