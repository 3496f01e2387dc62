"""Small JSON files that a command leaves for the next one: whole, or not there."""

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

Record = TypeVar("Record")

# How the dataclass of a record reads: no unknown keys, no conversions.
EXACT = ConfigDict(extra="forbid", strict=True)


class DamagedRecordError(Exception):
    """A file that is not the record it should be."""


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass as JSON, so that nobody ever reads a part of it."""
    # Hidden and .json, as make clean removes them in the model store.
    temporary = path.with_name(f".{path.stem.lstrip('.')}.{os.getpid()}.json")
    try:
        temporary.write_bytes(TypeAdapter(type(record)).dump_json(record))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_record(path: Path, record_class: type[Record]) -> Record | None:
    """Return the `EXACT` pydantic dataclass that a file holds, or None where there is no file.

    Raises `DamagedRecordError` for a file that holds anything else.
    """
    try:
        return TypeAdapter(record_class).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DamagedRecordError(path.name) from error
