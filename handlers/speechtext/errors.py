"""Why a request cannot be answered, by class; each adapter gives a class its own status.

A message says what was expected, what arrived and for which field, never the payload itself.
"""


class RequestError(Exception):
    """A request that cannot be answered: a name for the reason, and what to change."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class MalformedRequestError(RequestError):
    """What arrived cannot be read: nothing, damaged, or not what it claims to be."""


class UnsupportedMediaError(RequestError):
    """The bytes are of no format that can be decoded."""


class RequestTooLargeError(RequestError):
    """The request is longer than this model's limit."""


class ImpossibleRequestError(RequestError):
    """The request is well-formed, but asks for what cannot be."""


class OutOfMemoryError(RequestError):
    """The request alone does not fit in memory."""


class InternalError(RequestError):
    """A mistake of this code; the log says where."""


class NonFiniteOutputError(RequestError):
    """The model gave no numbers for the request, and would again."""


class UnavailableError(RequestError):
    """The same request may be answered later, after `retry_after_s` where that is known."""

    def __init__(self, kind: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(kind, message)
        self.retry_after_s = retry_after_s


class DeadlineError(UnavailableError):
    """A batch took longer than it may: none of its requests is answered."""


class DeviceLostError(UnavailableError):
    """The GPU refuses whatever this process asks of it: another process has to."""


class SessionConflictError(RequestError):
    """A new session has the name of an open one."""


class SessionGoneError(RequestError):
    """The session was never opened, has ended, or was silent for too long."""


def explanation_unsupported() -> ImpossibleRequestError:
    """Return the error of a request for an explanation that the model is not configured for."""
    return ImpossibleRequestError(
        "ExplanationUnsupported",
        "Expected a request for a prediction: this model is not configured for explanations.",
    )
