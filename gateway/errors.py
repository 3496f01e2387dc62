"""From an engine's error to an answer: a status for each class, and the shape of each protocol."""

import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.engine import (
    EngineError,
    EngineTimeoutError,
    ImpossibleRequestError,
    InternalError,
    MalformedRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
    OutOfMemoryError,
    RequestTooLargeError,
    SessionConflictError,
    SessionGoneError,
    SessionIdleError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
    WorkerDiedError,
)
from gateway.request_context import request_id
from gateway.sentences import lower_first

logger = logging.getLogger(__name__)

# As the handlers have them, for the classes that are theirs.
STATUSES: dict[type[EngineError], HTTPStatus] = {
    MalformedRequestError: HTTPStatus.BAD_REQUEST,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ModelNotFoundError: HTTPStatus.NOT_FOUND,
    MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    SessionIdleError: HTTPStatus.REQUEST_TIMEOUT,
    SessionConflictError: HTTPStatus.CONFLICT,
    SessionGoneError: HTTPStatus.GONE,
    RequestTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ImpossibleRequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyRequestsError: HTTPStatus.TOO_MANY_REQUESTS,
    InternalError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    EngineTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    WorkerDiedError: HTTPStatus.INSUFFICIENT_STORAGE,
    OutOfMemoryError: HTTPStatus.INSUFFICIENT_STORAGE,
}


@dataclass(frozen=True)
class Failure:
    """What a protocol writes an error from."""

    status: int
    error: EngineError
    request_id: str


ErrorWriter = Callable[[Failure], Response]


def status_of(error: EngineError) -> HTTPStatus:
    """Return the status of an error, that of the nearest class that has one."""
    return next(STATUSES[each] for each in type(error).__mro__ if each in STATUSES)


def write_error(failure: Failure) -> Response:
    """Return an error in the shape of TorchServe and of the handlers."""
    return JSONResponse(describe_error(failure.error, failure.status), failure.status)


def describe_error(error: EngineError, status: int) -> dict[str, int | str]:
    """Return an error as JSON in that shape."""
    return {"code": status, "type": error.kind, "message": error.message}


class ErrorShapes:
    """Which protocol writes the errors of which addresses: the longest prefix has it.

    `*` in a prefix stands for any characters.
    """

    def __init__(self, writers: Mapping[str, ErrorWriter]) -> None:
        self._writers = sorted(writers.items(), key=lambda each: -len(each[0]))

    def respond(self, path: str, error: EngineError) -> Response:
        """Return the answer that tells the client of `path` about an error."""
        fits = (writer for prefix, writer in self._writers if fnmatchcase(path, f"{prefix}*"))
        write = next(fits, write_error)
        response = write(Failure(status_of(error).value, error, request_id.get()))
        if error.retry_after_s is not None and "retry-after" not in response.headers:
            response.headers["retry-after"] = str(math.ceil(error.retry_after_s))
        return response

    def install(self, app: FastAPI) -> None:
        """Let the application answer all errors in this way."""

        async def respond(request: HttpRequest, error: Exception) -> Response:
            response = self.respond(path_of(request), as_engine_error(error))
            # An address that lacks the method: RFC 9110, section 15.5.6.
            if allowed := (getattr(error, "headers", None) or {}).get("Allow"):
                response.headers["allow"] = allowed.replace("GET", "GET, HEAD")
            return response

        async def respond_to_unknown(scope: Scope, receive: Receive, send: Send) -> None:
            # A WebSocket, too, for which no exception would be answered.
            await self.respond(scope["path"], unknown_address())(scope, receive, send)

        for kind in (EngineError, HTTPException, RequestValidationError):
            app.add_exception_handler(kind, respond)
        app.router.default = respond_to_unknown


def unknown_address() -> NotFoundError:
    """Return the error of an address at which there is nothing."""
    return NotFoundError("NotFound", "Expected an existing address; /docs lists them.")


def path_of(connection: HTTPConnection) -> str:
    """Return the path of a request, decoded, without its query."""
    return str(connection.scope["path"])


def as_engine_error(error: Exception) -> EngineError:
    """Return an error of the framework as one of ours, without what the request contained."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, RequestValidationError):
        return ImpossibleRequestError("InvalidParameter", describe_problems(error.errors()))
    if isinstance(error, HTTPException):
        return _from_http(error)
    return InternalError(
        "InternalError", "Expected to answer this request, and made a mistake; the log says where."
    )


def log_mistake(error: Exception) -> None:
    """Log where a mistake was made: its own words may repeat what a request contained."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s while answering:\n%s", type(error).__name__, where)


def _from_http(error: HTTPException) -> EngineError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return unknown_address()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowedError(
            "MethodNotAllowed", "Expected another method at this address; /docs has them."
        )
    # Forms that cannot be parsed, with a sentence of the parser's own.
    return MalformedRequestError(
        "MalformedRequest", f"Expected a form that can be read. {error.detail}"
    )


def describe_problems(problems: Sequence[Any]) -> str:
    """Return a sentence for each field that was refused, without its value."""
    sentences = []
    for problem in problems:
        name = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
        sentences.append(f"{name or 'body'}: {lower_first(problem['msg'])}.")
    return " ".join(sentences)
