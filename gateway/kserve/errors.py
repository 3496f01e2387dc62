"""Errors as KServe's protocols have them, and what is wrong with a body."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from gateway.engine import EngineError, MalformedRequestError
from gateway.errors import Failure, describe_problems

Shape = TypeVar("Shape")
# Of a body with many mistakes, so many are told.
MOST_TOLD = 5


def write_error(failure: Failure) -> Response:
    """Return an error: the Open Inference Protocol, `inference_error_response`."""
    return JSONResponse({"error": failure.error.message}, failure.status)


def read_json(shape: TypeAdapter[Shape], content: bytes) -> Shape:
    """Return a body in its shape; raises `MalformedRequestError`, which repeats nothing of it."""
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        raise MalformedRequestError(
            "MalformedRequest", f"Expected a request. {describe_problems(problems[:MOST_TOLD])}"
        ) from None


def name_instance(error: EngineError, number: int, count: int) -> EngineError:
    """Return an error that says which of several instances has it."""
    if count == 1:
        return error
    said = f"Instance {number}, counted from 0, of {count}: {error.message}"
    return type(error)(error.kind, said, error.retry_after_s)
