"""The fields of requests, of a form or of JSON."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from speechtext.parameters import impossible
from speechtext.payloads import as_text


def fields_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a request's form or of its JSON."""
    body = row.get("body")
    return body if isinstance(body, Mapping) else row


def merge_parameters(fields: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """Return fields with those of the object `parameters` among them.

    Hugging Face's client sends one. Raises `ImpossibleRequestError` where that is no object, or has
    others than `names`.
    """
    given = asked_parameters({"parameters": fields.get("parameters")}, ())
    if not set(given) <= set(names):
        raise impossible("parameters", f"fields among {', '.join(names)}", "another")
    return {**fields, **given}


def asked_parameters(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the parameters of a request: the object `parameters`, or fields of these names.

    A form has each as text. Raises `ImpossibleRequestError` where `parameters` is no object.
    """
    given = parse_field(fields.get("parameters"), "parameters")
    if given is None:
        return {name: parse_field(fields[name], name) for name in names if name in fields}
    if not isinstance(given, Mapping):
        raise impossible("parameters", "a JSON object", f"a {type(given).__name__}")
    return dict(given)


def parse_field(value: Any, name: str) -> Any:
    """Return what a form's text says as JSON, else the value as it is."""
    if not isinstance(value, bytes | bytearray):
        return value
    text = as_text(value, name)
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text
