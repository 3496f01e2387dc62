"""What the gateway knows of an engine: requests, answers, models, live sessions, and why not.

An engine takes requests in the contract of `/predictions`: the same body and headers get the same
answer from each. Protocols are written against `Engine` alone.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self

Headers = Sequence[tuple[str, str]]


# When to ask again while models are loaded.
LOADING_S = 2.0


class Kind(StrEnum):
    """What a model does."""

    SPEECH_RECOGNITION = "speech_recognition"
    LIVE_SPEECH = "live_speech"
    AUDIO_CLASSIFICATION = "audio_classification"
    FRAME_CLASSIFICATION = "frame_classification"
    SPEAKER_EMBEDDING = "speaker_embedding"
    FEATURES = "features"
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105 - a task's name
    QUESTION_ANSWERING = "question_answering"
    TEXT_GENERATION = "text_generation"


@dataclass(frozen=True)
class Request:
    """A request in the contract of /predictions; `headers` are further ones.

    A body in parts is read once, before the answer begins; content-length tells how long it is.
    """

    body: bytes | AsyncIterator[bytes]
    content_type: str | None = None
    accept: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> list[tuple[str, str]]:
        """Return its headers, with names in lower case."""
        named = {"content-type": self.content_type, "accept": self.accept, **self.headers}
        return [(name.lower(), value) for name, value in named.items() if value is not None]


@dataclass(frozen=True)
class Answer:
    """A good answer, whole; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """Return the media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class AnswerStream:
    """An answer whose body comes in parts, as the engine makes them.

    Whoever gets one closes it, with `aclose()` or `async with`; that ends the engine's work where
    it still runs. Iterating raises `EngineError` where the engine is lost on the way.
    """

    def __init__(
        self,
        status: int,
        headers: Headers,
        parts: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status = status
        self.raw_headers = headers
        self.headers = {name.lower(): value for name, value in headers}
        self._parts = parts
        self.aclose = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


@dataclass(frozen=True)
class ForwardedRequest:
    """A request of the contract as it came: `target` is the path and query, not decoded.

    Names of `headers` are in lower case, and those of the connection alone are left out.
    """

    method: str
    target: bytes
    headers: Headers
    body: AsyncIterator[bytes] | None


@dataclass(frozen=True)
class AudioFormat:
    """16-bit samples, little-endian, interleaved."""

    rate_hz: int
    channels: int = 1


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model, and whether a worker of it answers."""

    version: str
    ready: bool


@dataclass(frozen=True)
class Description:
    """What a model says that it is; `kind` is None where it does not say.

    `media_types` are the forms of its answers, `streams` those that come in parts; `decoder` is
    `greedy` or `beam`, `hotwords` tells whether requests may name some, `speakers` whether they are
    told apart, `language` is the only one that is understood, where that is known; `limits` are
    numbers by name, such as `max_audio_seconds`.
    """

    kind: Kind | None = None
    explainable: bool = False
    media_types: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    decoder: str | None = None
    hotwords: bool = False
    speakers: bool = False
    language: str | None = None
    sample_rate_hz: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model of the engine: `ready` is that of its default version, `about` what that is."""

    name: str
    versions: tuple[ModelVersion, ...]
    default_version: str
    ready: bool
    about: Description

    @property
    def kind(self) -> Kind | None:
        """Return what the model does, None where that is not known."""
        return self.about.kind


class LiveSession(Protocol):
    """One person's speech, chunk by chunk."""

    async def send(self, chunk: bytes, last: bool = False) -> dict[str, Any]:
        """Return what was said by the end of a chunk, in the shape of docs/live.md.

        Chunks are taken one after the other, whoever sends them. Raises `EngineError`.
        """

    async def close(self) -> None:
        """End the session, where it has not ended, without its text; raises nothing."""


class Engine(Protocol):
    """What runs models. All of its methods but `aclose` raise `EngineError`."""

    async def answer(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the answer to a request."""

    async def explain(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the explanation of the answer to a request."""

    async def stream(
        self, model: str, request: Request, version: str | None = None
    ) -> AnswerStream:
        """Return the answer to a request in parts, once its first header is there."""

    async def forward(self, request: ForwardedRequest) -> AnswerStream:
        """Return the answer to a request of the contract unchanged, errors too."""

    async def open_live(self, model: str, audio_format: AudioFormat) -> LiveSession:
        """Return a session of live speech; the engine opens it with the first chunk."""

    async def models(self) -> list[Model]:
        """Return the models there are, by name, as they are now."""

    async def model(self, name: str) -> Model:
        """Return one of them, as it was last known; raises `ModelNotFoundError`."""

    async def check_alive(self) -> None:
        """Return unless this process has to be started again; then raises `UnavailableError`."""

    async def aclose(self) -> None:
        """Close the connections."""


class EngineError(Exception):
    """Why a request has no answer: a name for the reason, and what to change.

    Classes tell reasons apart; each protocol gives them statuses and shapes of its own.
    `retry_after_s` says when the same request may be answered, `field` which field of the request
    is to blame, where that is known.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        retry_after_s: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.field = field


class MalformedRequestError(EngineError):
    """What arrived cannot be read."""


class UnauthorizedError(EngineError):
    """There is no token, or not the right one."""


class NotFoundError(EngineError):
    """There is nothing at that address."""


class ModelNotFoundError(NotFoundError):
    """There is no such model or version."""


class MethodNotAllowedError(EngineError):
    """The address takes other methods."""


class SessionConflictError(EngineError):
    """A new session has the name of an open one."""


class SessionIdleError(EngineError):
    """A client of a live session sent nothing for too long."""


class SessionGoneError(EngineError):
    """The session was never opened, has ended, was silent for too long, or lost its worker."""


class RequestTooLargeError(EngineError):
    """The request is longer than a limit."""


class UnsupportedMediaError(EngineError):
    """The bytes are of no format that can be decoded."""


class ImpossibleRequestError(EngineError):
    """The request is well-formed, but asks for what cannot be."""


class TooManyRequestsError(EngineError):
    """A client asks for more than its share."""


class InternalError(EngineError):
    """A mistake in the engine or in the gateway; the log says where."""


class UnavailableError(EngineError):
    """The engine is down, starting, being stopped or full; the same request may succeed later."""


def not_ready() -> UnavailableError:
    """Return the error of models that are not ready."""
    return UnavailableError("NotReady", "Expected a model that is ready; try again.", LOADING_S)


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class WorkerDiedError(EngineError):
    """The worker ended while it answered, for example because memory ran out."""


class OutOfMemoryError(EngineError):
    """The request alone does not fit in memory."""
