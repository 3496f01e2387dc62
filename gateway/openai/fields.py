"""The fields of a request, checked; what is wrong with one is told with its name."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.engine import EngineError, ImpossibleRequestError, MalformedRequestError
from gateway.sentences import lower_first

Shape = TypeVar("Shape", bound=BaseModel)
# Characters of a field's name in an error.
MOST_SHOWN = 40
# Numbers that are told, and what other values are called.
MOST_TOLD = 1e12
KINDS = {str: "other text", list: "a list", dict: "an object", int: "more", float: "more"}


def read_fields(shape: type[Shape], fields: Mapping[str, Any]) -> Shape:
    """Return checked fields; raises `EngineError` for the first that is missing or wrong."""
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _refusal(shape, error.errors()[0]) from None


def _refusal(shape: type[BaseModel], problem: Any) -> EngineError:
    if not problem["loc"]:
        # pydantic tells nothing else of a name that is no Unicode.
        message = "Expected names of fields in Unicode, got half of a surrogate pair."
        return MalformedRequestError("MalformedRequest", message)
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return missing(name)
    if problem["type"] == "extra_forbidden":
        known = ", ".join(shape.model_fields)
        shown = name[:MOST_SHOWN] if name.isidentifier() else None
        message = f"Expected fields among {known}, got {shown or 'another'}."
        return ImpossibleRequestError("InvalidParameter", message, field=shown)
    # What a validator of ours says comes without pydantic's words before it.
    said = str(problem.get("ctx", {}).get("error") or problem["msg"])
    message = f"{name}: {lower_first(said)}, got {show(problem['input'])}."
    return ImpossibleRequestError("InvalidParameter", message, field=name)


def show(value: Any) -> str:
    """Return what may be told of a value: numbers, and of others what they are."""
    if isinstance(value, int | float) and abs(value) < MOST_TOLD:
        return str(value).lower()
    return KINDS.get(type(value), "something else")


def refusal(field: str, expected: str, got: str) -> ImpossibleRequestError:
    """Return the error of a field that asks for what cannot be."""
    message = f"Expected {field} to be {expected}, got {got}."
    return ImpossibleRequestError("InvalidParameter", message, field=field)


def missing(field: str) -> MalformedRequestError:
    """Return the error of a field that has to be there."""
    message = f"Expected the field {field}, got none."
    return MalformedRequestError("MissingField", message, field=field)
