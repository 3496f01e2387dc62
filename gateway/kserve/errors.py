"""Errors as KServe's protocols have them."""

from starlette.responses import JSONResponse, Response

from gateway.engine import EngineError
from gateway.errors import Failure


def write_error(failure: Failure) -> Response:
    """Return an error: the Open Inference Protocol, `inference_error_response`."""
    return JSONResponse({"error": failure.error.message}, failure.status)


def name_instance(error: EngineError, number: int, count: int) -> EngineError:
    """Return an error that says which of several instances has it."""
    if count == 1:
        return error
    said = f"Instance {number}, counted from 0, of {count}: {error.message}"
    return type(error)(error.kind, said, error.retry_after_s)
