"""From the bytes of a request to text or the fields of an object."""

import ast
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from speechtext.errors import MalformedRequestError

# Python's parser takes 4 s and 480 MB for a megabyte.
LONGEST_LITERAL = 32_768
LITERAL = re.compile(r"\s*\{\s*['\"]")
# What Python thinks of the spelling of a literal, which quotes it: the parser's name for its input.
warnings.filterwarnings("ignore", module="<unknown>")


def as_text(payload: str | bytes | bytearray, field: str = "body") -> str:
    """Return a payload as text; raises `MalformedRequestError` where its bytes are not UTF-8."""
    if isinstance(payload, str):
        return payload
    try:
        return bytes(payload).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRequestError(
            "InvalidEncoding",
            f"Expected UTF-8 text in {field}, got bytes that are not, at byte {error.start}.",
        ) from None


def as_fields(payload: Any, declared_json: bool) -> str | Mapping[str, Any]:
    """Return a payload as an object's fields, or as plain text where it is not an object.

    Text that begins like an object is read as JSON, then as the single-quoted Python literal that
    older clients send, of at most `LONGEST_LITERAL` characters. Raises `MalformedRequestError` for
    a longer one, for bytes that are `declared_json` and are neither, and for JSON that is neither
    text nor an object.
    """
    if isinstance(payload, str | bytes | bytearray):
        # Text was read out of JSON already; bytes are what has not been, or could not be.
        unparsed = declared_json and not isinstance(payload, str)
        payload = _parse_object(as_text(payload), unparsed)
    if isinstance(payload, str | Mapping):
        return payload
    raise MalformedRequestError(
        "UnexpectedJson",
        f"Expected text or a JSON object in body, got a JSON {type(payload).__name__}.",
    )


def _parse_object(text: str, declared_json: bool) -> Any:
    if not declared_json and not text.lstrip().startswith("{"):
        return text
    # A hostile depth of brackets ends either parser in a RecursionError or MemoryError.
    with suppress(ValueError, RecursionError, MemoryError):
        return json.loads(text.strip())
    if len(text) <= LONGEST_LITERAL:
        # What cannot be in a set, as in {{}}, ends it in a TypeError.
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            literal = ast.literal_eval(text.strip())
            # A set, as in {1}, is what nobody sends for an object.
            if declared_json or isinstance(literal, Mapping):
                return literal
    elif LITERAL.match(text):
        raise MalformedRequestError(
            "MalformedJson",
            f"Expected JSON in body, as of all objects of more than {LONGEST_LITERAL} characters, "
            "got malformed JSON.",
        )
    if not declared_json:
        return text
    raise MalformedRequestError(
        "MalformedJson", "Expected a JSON object in body, got malformed JSON."
    )
