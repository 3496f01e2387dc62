"""The parameters of requests, checked, with one wording for what is wrong."""

from collections.abc import Mapping
from dataclasses import Field
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from speechtext.errors import ImpossibleRequestError
from speechtext.settings import describe_problems

Parameters = TypeVar("Parameters")
# Characters of a number or a parameter's name in an error.
MOST_SHOWN = 40


def read_parameters(
    parameters_class: type[Parameters], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Parameters:
    """Return a request's parameters, checked; `defaults` stand for those that it does not name.

    A null means the default too, except where a parameter may be None and by default is not. Raises
    `ImpossibleRequestError`, which names each parameter that is unknown or out of its range.
    """
    known: dict[str, Field[Any]] = parameters_class.__dataclass_fields__  # type: ignore[attr-defined]
    named = {
        name: value
        for name, value in values.items()
        if name in known and (value is not None or _null_says_something(known[name]))
    }
    # Not left to the class: Python's literals have names that are no texts, and some mean itself.
    problems = [_describe_unknown(name) for name in values if name not in known]
    try:
        parameters = parameters_class(**{**defaults, **named})
    except ValidationError as error:
        problems = describe_problems(error, _describe_unknown, _show) + problems
    if problems:
        raise ImpossibleRequestError(
            "InvalidParameter",
            f"Expected parameters among {', '.join(known)}, each in its range. "
            f"{'; '.join(problems)}.",
        )
    return parameters


def _null_says_something(field: Field[Any]) -> bool:
    return field.default is not None and type(None) in get_args(field.type)


def _describe_unknown(name: Any) -> str:
    told = isinstance(name, str) and name.isidentifier()
    return f"{name[:MOST_SHOWN] if told else 'a name'}: unknown"


def _show(value: Any) -> str:
    """Return what may be told of a value: numbers tell what is wrong, texts may be a user's."""
    # Python refuses to write integers of thousands of digits.
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**MOST_SHOWN):
        return str(value)
    return f"a{'n' * isinstance(value, int)} {type(value).__name__}"


def impossible(name: str, expected: str, got: str) -> ImpossibleRequestError:
    """Return the error of a value that cannot be, 422."""
    return ImpossibleRequestError(
        "InvalidParameter",
        f"Expected {name} to be {expected}, got {got[:MOST_SHOWN]}.",
    )
