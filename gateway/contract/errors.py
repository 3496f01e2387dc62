"""From what an engine of the contract and its handlers say, to the engine's errors."""

import json
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from gateway.engine import (
    EngineError,
    EngineTimeoutError,
    ImpossibleRequestError,
    InternalError,
    MalformedRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    OutOfMemoryError,
    RequestTooLargeError,
    SessionConflictError,
    SessionGoneError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
    WorkerDiedError,
)

CLASSES: dict[int, type[EngineError]] = {
    HTTPStatus.BAD_REQUEST: MalformedRequestError,
    HTTPStatus.UNAUTHORIZED: UnauthorizedError,
    HTTPStatus.FORBIDDEN: UnauthorizedError,
    HTTPStatus.NOT_FOUND: ModelNotFoundError,
    HTTPStatus.METHOD_NOT_ALLOWED: MethodNotAllowedError,
    HTTPStatus.CONFLICT: SessionConflictError,
    HTTPStatus.GONE: SessionGoneError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: RequestTooLargeError,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaError,
    HTTPStatus.UNPROCESSABLE_ENTITY: ImpossibleRequestError,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequestsError,
    HTTPStatus.SERVICE_UNAVAILABLE: UnavailableError,
    HTTPStatus.GATEWAY_TIMEOUT: EngineTimeoutError,
    HTTPStatus.INSUFFICIENT_STORAGE: WorkerDiedError,
}
# Reasons of the handlers that share a status with another of TorchServe's.
KINDS: dict[str, type[EngineError]] = {
    "InternalError": InternalError,
    "OutOfMemory": OutOfMemoryError,
}
# TorchServe's own refusals of a token come with status 400.
TOKEN_KINDS = {"InvalidKey", "InvalidKeyException"}
# When to try again where the queue is full.
BUSY_S = 1.0


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> EngineError:
    """Return the error of an answer that is none."""
    said: Any = None
    with suppress(ValueError):
        said = json.loads(body)
    if not isinstance(said, dict):
        said = {}
    kind = str(said.get("type") or "EngineError").removesuffix("Exception")
    message = str(said.get("message") or f"The engine answered {status}.")
    given = CLASSES.get(status, InternalError)
    error_class = UnauthorizedError if kind in TOKEN_KINDS else KINDS.get(kind, given)
    return error_class(kind, message, _retry_after(error_class, headers))


def _retry_after(error_class: type[EngineError], headers: Mapping[str, str]) -> float | None:
    with suppress(ValueError):
        return float(headers.get("retry-after", ""))
    return BUSY_S if error_class is UnavailableError else None
