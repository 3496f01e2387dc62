"""From what TorchServe, its handlers and the connection to it say, to the engine's errors."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import httpx2

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
# When to try again: a full queue, and an engine that is not there.
BUSY_S, DOWN_S = 1.0, 5.0


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


@contextmanager
def as_engine_errors() -> Iterator[None]:
    """Raise what goes wrong on the way to TorchServe as an `EngineError`."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise UnavailableError(
            "EngineUnreachable", "Expected the engine to be there; it is not. Try again.", DOWN_S
        ) from error
    except httpx2.PoolTimeout as error:
        raise UnavailableError(
            "TooManyConnections", "Expected a free connection to the engine, got none.", BUSY_S
        ) from error
    except httpx2.TimeoutException as error:
        raise EngineTimeoutError(
            "EngineTimeout", "Expected an answer of the engine in time, got none."
        ) from error
    except httpx2.TransportError as error:
        raise UnavailableError(
            "EngineLost", "Expected the engine's whole answer; the connection was lost.", BUSY_S
        ) from error
