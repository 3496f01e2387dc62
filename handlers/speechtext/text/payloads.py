"""From a payload to an example: its texts, its parameters, and the form in which to answer it."""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import ValidationError

from speechtext.errors import ImpossibleRequestError, MalformedRequestError, RequestError
from speechtext.payloads import as_fields

Parameters = TypeVar("Parameters")
# Characters of a number or a parameter's name in an error.
MOST_SHOWN = 40


class AnswerForm(Enum):
    """The form of an answer: the plain one of the contract, or that of `transformers.pipeline`.

    `huggingface_hub.InferenceClient` reads a classification out of one more list around it.
    """

    PLAIN = auto()
    PIPELINE = auto()
    HUB_CLIENT = auto()


class Envelope(NamedTuple):
    """What a request says beside its payload.

    `place` is that in the batch, `declared_json` its content type, `explain` that it came to
    /explanations and `media_type` how to show an explanation, `hub_client` that it is of
    `huggingface_hub`; `send` sends a numbered part of the answer before the rest of it.
    """

    place: int = 0
    declared_json: bool = False
    explain: bool = False
    hub_client: bool = False
    send: Callable[[int, str], None] | None = None
    media_type: str = "application/json"


NO_ENVELOPE = Envelope()


@dataclass(frozen=True)
class Content:
    """What a payload says: a text or the fields of an object, and the parameters beside it."""

    fields: str | Mapping[str, Any]
    parameters: Mapping[str, Any]
    form: AnswerForm


@dataclass(frozen=True)
class Example:
    """One request: a text, the one that goes with it (a context, the other of a pair), and how.

    `parameters` are the task's own; `target` is what to explain and `explanation` how, if that was
    asked for.
    """

    text: str
    second: str | None = None
    parameters: Any = None
    form: AnswerForm = AnswerForm.PLAIN
    envelope: Envelope = NO_ENVELOPE
    target: Any = None
    explanation: Any = None


def read_content(payload: Any, envelope: Envelope) -> Content:
    """Return what a payload says, in the plain form or in that of Hugging Face.

    The latter is `{"inputs": ..., "parameters": {...}}`; `stream` may stand beside them, too.
    Raises `RequestError` 400 or 422.
    """
    content = as_fields(payload, envelope.declared_json)
    if isinstance(content, str):
        return Content(content, {}, AnswerForm.PLAIN)
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise impossible("parameters", "a JSON object", type(parameters).__name__)
    if content.get("stream") is not None:
        parameters = {**parameters, "stream": content["stream"]}
    if "inputs" not in content:
        return Content(content, parameters, AnswerForm.PLAIN)
    inputs = content["inputs"]
    if not isinstance(inputs, str | Mapping):
        raise impossible("inputs", "one text or object in a request", type(inputs).__name__)
    form = AnswerForm.HUB_CLIENT if envelope.hub_client else AnswerForm.PIPELINE
    if isinstance(inputs, str):
        inputs = {"text": inputs}
    return Content(inputs, parameters, form)


def text_of(content: Content, name: str = "text") -> str:
    """Return a text, from the field `name` where the payload is an object.

    Raises `RequestError` 400 where there is none, or one that is not Unicode.
    """
    if isinstance(content.fields, str) and name == "text":
        return _checked(content.fields, "body")
    value = None if isinstance(content.fields, str) else content.fields.get(name)
    if not isinstance(value, str) or not value.strip():
        plain = content.form is AnswerForm.PLAIN
        place = name if plain else f"inputs ({name}, where inputs is an object)"
        raise MalformedRequestError(
            "MissingField",
            f"Expected a JSON object with text in the field {place}, got none or something else "
            "there.",
        )
    return _checked(value, name)


def _checked(text: str, field: str) -> str:
    """Return a text; raises `RequestError` 400 for one that JSON allows and Unicode does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRequestError(
            "InvalidEncoding",
            f"Expected Unicode characters in {field}, got half of a surrogate pair.",
        ) from None
    return text


def optional_text_of(content: Content, name: str) -> str | None:
    """Return the text of a field that need not be there."""
    if isinstance(content.fields, str) or content.fields.get(name) is None:
        return None
    return text_of(content, name)


def target_of(content: Content) -> Any:
    """Return what to explain, as the request names it; the task tells what that may be."""
    return None if isinstance(content.fields, str) else content.fields.get("target")


def read_parameters(
    parameters_class: type[Parameters], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Parameters:
    """Return a request's parameters, checked; `defaults` stand for those that it does not name.

    A null means the default too, except where a parameter may be None and by default is not. Raises
    `RequestError` 422, which names each parameter that is unknown or out of its range.
    """
    known: dict[str, Field[Any]] = parameters_class.__dataclass_fields__  # type: ignore[attr-defined]
    named = {
        name: value
        for name, value in values.items()
        if value is not None or name not in known or _null_says_something(known[name])
    }
    try:
        return parameters_class(**{**defaults, **named})
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise ImpossibleRequestError(
            "InvalidParameter",
            f"Expected parameters among {', '.join(known)}, each in its range. {problems}.",
        ) from None


def _null_says_something(field: Field[Any]) -> bool:
    return field.default is not None and type(None) in get_args(field.type)


def _describe(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    # Names and numbers tell what is wrong; texts may be a user's.
    if problem["type"] == "unexpected_keyword_argument":
        return f"{name[:MOST_SHOWN] if name.isidentifier() else 'a name'}: unknown"
    value = problem["input"]
    shown = (
        str(value)[:MOST_SHOWN] if isinstance(value, int | float) else f"a {type(value).__name__}"
    )
    return f"{name}: {problem['msg']}, got {shown}"


def impossible(name: str, expected: str, got: str) -> RequestError:
    """Return the error of a value that cannot be, 422."""
    return ImpossibleRequestError(
        "InvalidParameter",
        f"Expected {name} to be {expected}, got {got[:MOST_SHOWN]}.",
    )


def unknown_target(expected: str) -> RequestError:
    """Return the error of a target to explain that does not exist, 422."""
    return ImpossibleRequestError("UnknownTarget", f"Expected target to be {expected}.")
