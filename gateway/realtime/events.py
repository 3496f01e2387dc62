"""The events of the protocol: those of clients, checked, and those for them."""

import base64
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from gateway.engine import EngineError, RequestTooLargeError
from gateway.json_size import parse_json
from gateway.openai.errors import code_of
from gateway.realtime.configuration import Asked, AskedSession
from gateway.sentences import lower_first
from gateway.sockets import NORMAL, REFUSED, close_code

Event = dict[str, Any]
LONGEST_NAME = 100
LONGEST_EVENT_ID = 512
# The names that OpenAI's errors have for what pydantic finds.
CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}


class ClientEvent(Asked):
    """What a client sends; it may give its event a name."""

    event_id: Annotated[str, Field(max_length=LONGEST_EVENT_ID)] | None = None


class Update(ClientEvent):
    """Ask for another configuration."""

    type: Literal["session.update"]
    session: AskedSession


class Append(ClientEvent):
    """Bring audio, as base64."""

    type: Literal["input_audio_buffer.append"]
    audio: str

    def decode(self) -> bytes:
        """Return the audio; raises `ClientEventError`."""
        try:
            return base64.b64decode(self.audio, validate=True)
        except ValueError:
            raise ClientEventError(
                "invalid_value", "Expected base64 in audio.", "audio", self.event_id
            ) from None


class Commit(ClientEvent):
    """End an item here."""

    type: Literal["input_audio_buffer.commit"]


class Clear(ClientEvent):
    """Forget what belongs to no item yet."""

    type: Literal["input_audio_buffer.clear"]


class Cleared(NamedTuple):
    """A `Clear` in its place among other events, with the bytes that were dropped for it."""

    audio_bytes: int


CLIENT_EVENTS: dict[str, type[Update | Append | Commit | Clear]] = {
    "session.update": Update,
    "input_audio_buffer.append": Append,
    "input_audio_buffer.commit": Commit,
    "input_audio_buffer.clear": Clear,
}


class ClientEventError(Exception):
    """What is wrong with a client's event; the session goes on."""

    def __init__(
        self, code: str, message: str, param: str | None = None, event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.event_id = event_id


def parse_event(text: str | bytes) -> Update | Append | Commit | Clear:
    """Return a client's event; raises `ClientEventError` for what is none."""
    try:
        content = parse_json(text)
    except RequestTooLargeError as error:
        raise ClientEventError(code_of(error), error.message) from None
    except (ValueError, RecursionError):
        raise ClientEventError("invalid_json", "Expected an event as JSON.") from None
    if not isinstance(content, dict):
        raise ClientEventError("invalid_type", "Expected an event, a JSON object.")
    event_id = content.get("event_id")
    if not isinstance(event_id, str) or len(event_id) > LONGEST_EVENT_ID:
        event_id = None
    kind = content.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        names = ", ".join(CLIENT_EVENTS)
        raise ClientEventError(
            "invalid_value", f"Expected type to be one of {names}.", "type", event_id
        )
    try:
        return CLIENT_EVENTS[kind].model_validate(content)
    except ValidationError as error:
        raise _explain(error, event_id) from None


def _explain(error: ValidationError, event_id: str | None) -> ClientEventError:
    """Return what is wrong with the first field that is, without its value."""
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    # A name that is not valid Unicode is not repeated.
    name = ".".join(str(part) for part in problem["loc"])[:LONGEST_NAME] or None
    message = f"{name or 'event'}: {lower_first(problem['msg'])}."
    return ClientEventError(CODES.get(problem["type"], "invalid_value"), message, name, event_id)


def new_id(prefix: str) -> str:
    """Return a name for a session, an item or an event."""
    return f"{prefix}_{uuid.uuid4().hex}"


def server_event(kind: str, **fields: Any) -> Event:
    """Return an event for the client."""
    return {"type": kind, "event_id": new_id("event"), **fields}


def error_event(
    kind: str, code: str, message: str, param: str | None = None, event_id: str | None = None
) -> Event:
    """Return an error: `event_id` is that of the client's event that it is about."""
    error = {
        "type": kind,
        "code": code,
        "message": message,
        "param": param,
        "event_id": event_id,
    }
    return server_event("error", error=error)


def refusal_event(error: ClientEventError) -> Event:
    """Return what tells a client that its event has no effect."""
    return error_event(
        "invalid_request_error", error.code, error.message, error.param, error.event_id
    )


def describe_engine_error(error: EngineError) -> Mapping[str, str]:
    """Return an error of the engine in the protocol's words."""
    is_clients = close_code(error) in (REFUSED, NORMAL)
    kind = "invalid_request_error" if is_clients else "server_error"
    return {"type": kind, "code": code_of(error), "message": error.message}
