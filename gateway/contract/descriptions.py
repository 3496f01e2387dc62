"""What a model says that it is."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from gateway.engine import Description, Kind


def read_description(said: Any) -> Description:
    """Return what a handler says that its model is; other handlers say nothing that is known."""
    if not isinstance(said, Mapping) or said.get("kind") not in set(Kind):
        return Description()
    names = {field.name for field in fields(Description)}
    known = {key: _as_tuple(value) for key, value in said.items() if key in names}
    return Description(**(known | {"kind": Kind(said["kind"])}))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
