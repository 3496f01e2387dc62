"""An engine's error in OpenAI's shape, and whether its client should try again."""

import re
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

from gateway.engine import EngineError, TooManyRequestsError
from gateway.errors import Failure, status_of

TYPES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
# The field that is to blame for reasons that the engine tells without one.
FIELDS = {
    "ModelNotFound": "model",
    "AudioTooLong": "file",
    "DamagedAudio": "file",
    "EmptyAudio": "file",
    "InvalidAudio": "file",
    "MissingPayload": "file",
    "UnsupportedAudio": "file",
    "UnsupportedRate": "file",
    "InvalidEncoding": "prompt",
    "MissingField": "prompt",
    "TextTooLong": "prompt",
}
# Before each capital letter but the first.
WORD_STARTS = re.compile(r"(?<!^)(?=[A-Z])")


def write_error(failure: Failure) -> Response:
    """Return an error as an answer."""
    return JSONResponse(
        error_content(failure.error),
        failure.status,
        {"x-should-retry": "true" if may_succeed_later(failure.error) else "false"},
    )


def error_content(error: EngineError) -> dict[str, Any]:
    """Return an error in OpenAI's shape: `code` is its reason, `param` the field to blame."""
    status = status_of(error)
    server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return {
        "error": {
            "message": error.message,
            "type": "server_error" if server else TYPES.get(status, "invalid_request_error"),
            "param": error.field or FIELDS.get(error.kind),
            "code": code_of(error),
        }
    }


def code_of(error: EngineError) -> str:
    """Return an error's name in OpenAI's spelling: `ModelNotFound` is `model_not_found`."""
    return WORD_STARTS.sub("_", error.kind).lower()


def may_succeed_later(error: EngineError) -> bool:
    """Tell whether the same request may be answered when it is sent again.

    A bug, a request that takes too long or does not fit in memory will be the same again.
    """
    return error.retry_after_s is not None or isinstance(error, TooManyRequestsError)
