"""Settings and parameters: checked into frozen dataclasses, with one wording for what is wrong."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

Settings = TypeVar("Settings")

# How settings are read: no unknown keys, no conversions such as "yes" to true, and none of the
# infinities and NaN that YAML has and that Python reads in JSON.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def read_settings(
    settings_class: type[Settings], config: Mapping[str, Any] | None, section_name: str
) -> Settings:
    """Return a section of a model's YAML, such as `pt2.compile`, as a frozen dataclass.

    Raises `ValueError` with one sentence for each unknown key, wrong type or impossible choice, so
    that a mistake stops the load. `config` is not changed.
    """
    section = config or {}
    for name in section_name.split("."):
        section = section.get(name) or {}
        if not isinstance(section, Mapping):
            raise ValueError(f"{section_name}: expected keys and values, got {section!r}.")
    try:
        return settings_class(**section)
    except ValidationError as error:
        choices = ", ".join(each.name for each in fields(settings_class))  # type: ignore[arg-type]
        problems = describe_problems(
            error, lambda name: f"{name}: expected one of the keys {choices}", repr
        )
        raise ValueError(
            " ".join(f"{section_name}{'.' * (each[0] != ':')}{each}." for each in problems)
        ) from error


def describe_problems(
    error: ValidationError, describe_unknown: Callable[[str], str], show: Callable[[Any], str]
) -> list[str]:
    """Return what is wrong with each value that a dataclass refused, under its name.

    `describe_unknown` is said of a name that there is none of; `show` tells as much of a value as
    may be told.
    """
    return [_describe(problem, describe_unknown, show) for problem in error.errors()]


def _describe(
    problem: Mapping[str, Any], describe_unknown: Callable[[str], str], show: Callable[[Any], str]
) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return describe_unknown(name)
    said = str(problem["msg"])
    said = said[0].lower() + said[1:]
    return f"{name}: {said}, got {show(problem['input'])}" if name else f": {said}"
