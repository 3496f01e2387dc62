"""From a payload to an example: its texts, its parameters, and the form in which to answer it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from speechtext.errors import ImpossibleRequestError, MalformedRequestError
from speechtext.parameters import impossible


class AnswerForm(Enum):
    """The form of an answer: the plain one of the contract, or that of `transformers.pipeline`.

    `huggingface_hub.InferenceClient` reads a classification out of one more list around it.
    """

    PLAIN = auto()
    PIPELINE = auto()
    HUB_CLIENT = auto()


@dataclass(frozen=True)
class Content:
    """What a payload says: a text or the fields of an object, and the parameters beside it."""

    fields: str | Mapping[str, Any]
    parameters: Mapping[str, Any]
    form: AnswerForm


@dataclass(frozen=True)
class Example:
    """One request: a text, the one that goes with it (a context, the other of a pair), and how.

    `parameters` are the task's own; `target` is what to explain and `explanation` how, where an
    explanation is asked for.
    """

    text: str
    second: str | None = None
    parameters: Any = None
    form: AnswerForm = AnswerForm.PLAIN
    target: Any = None
    explanation: Any = None


def read_content(payload: str | Mapping[str, Any], hub_client: bool) -> Content:
    """Return what a payload says, in the plain form or in that of Hugging Face.

    The latter is `{"inputs": ..., "parameters": {...}}`; `stream` may stand beside them, too.
    Raises `ImpossibleRequestError`.
    """
    if isinstance(payload, str):
        return Content(payload, {}, AnswerForm.PLAIN)
    parameters = _read_asked(payload)
    if "inputs" not in payload:
        return Content(payload, parameters, AnswerForm.PLAIN)
    inputs = payload["inputs"]
    if not isinstance(inputs, str | Mapping):
        raise impossible("inputs", "one text or object in a request", type(inputs).__name__)
    form = AnswerForm.HUB_CLIENT if hub_client else AnswerForm.PIPELINE
    return Content({"text": inputs} if isinstance(inputs, str) else inputs, parameters, form)


def _read_asked(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = payload.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise impossible("parameters", "a JSON object", type(parameters).__name__)
    if payload.get("stream") is not None:
        return {**parameters, "stream": payload["stream"]}
    return parameters


def text_of(content: Content, name: str = "text", may_be_blank: bool = False) -> str:
    """Return a text, from the field `name` where the payload is an object.

    White space in an object is no text, unless it `may_be_blank`. Raises `MalformedRequestError`
    where there is none, or one that is not Unicode.
    """
    if isinstance(content.fields, str) and name == "text":
        return _checked(content.fields, "body")
    value = None if isinstance(content.fields, str) else content.fields.get(name)
    if not isinstance(value, str) or not (value if may_be_blank else value.strip()):
        plain = content.form is AnswerForm.PLAIN
        place = name if plain else f"inputs ({name}, where inputs is an object)"
        raise MalformedRequestError(
            "MissingField",
            f"Expected a JSON object with text in the field {place}, got none or something else "
            "there.",
        )
    return _checked(value, name)


def _checked(text: str, field: str) -> str:
    """Return a text; raises `MalformedRequestError` for one that is JSON's but not Unicode."""
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


def unknown_target(expected: str) -> ImpossibleRequestError:
    """Return the error of a target to explain that does not exist, 422."""
    return ImpossibleRequestError("UnknownTarget", f"Expected target to be {expected}.")
