"""How TorchServe says which session a piece of live speech belongs to: YAML keys and headers."""

from collections.abc import Mapping
from typing import Any

from device_io import request_headers
from speechtext.errors import MalformedRequestError


def read_idle_seconds(config: Mapping[str, Any] | None) -> float:
    """Return after how long a silent session is forgotten, by its key in a model's YAML.

    Raises `ValueError` where there is none, or where the keys that make TorchServe send all pieces
    of a session to one of several workers are not together.
    """
    keys = config or {}
    idle_ms = keys.get("sequenceMaxIdleMSec")
    if not idle_ms:
        raise ValueError("The model's YAML needs sequenceMaxIdleMSec for live sessions.")
    sticky = [bool(keys.get(key)) for key in ("sequenceBatching", "continuousBatching")]
    if (any(sticky) or keys.get("maxWorkers", 1) > 1) and not all(sticky):
        raise ValueError(
            "The model's YAML needs both sequenceBatching: true and continuousBatching: true for "
            "live sessions on more than one worker."
        )
    return float(idle_ms) / 1000


def read_session_id(context: Any, index: int) -> str:
    """Return the id of the session that a request is of, empty where the client names none."""
    return request_headers(context, index).get(context.header_key_sequence_id, "")


def read_sequence_headers(context: Any, index: int) -> tuple[bool, bool]:
    """Tell whether a request is the first and the last of its session.

    Raises `RequestError` 400 for names in another case, which TorchServe does not recognise with
    sequenceBatching: it would take each piece for a session of its own.
    """
    keys = (
        context.header_key_sequence_id,
        context.header_key_sequence_start,
        context.header_key_sequence_end,
    )
    headers = request_headers(context, index)
    strange = [name for name in headers if name not in keys and name.lower() in keys]
    if strange:
        raise MalformedRequestError(
            "InvalidHeader",
            f"Expected the header {strange[0].lower()} in this case, got {strange[0]}.",
        )
    return headers.get(keys[1]) == "true", headers.get(keys[2]) == "true"
