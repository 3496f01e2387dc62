"""TorchServe's request envelopes, `service_envelope=body` and `json`, which change what rows are.

`body` hands over bare bodies. `json`, the protocol v1 of KServe, makes a row of each of a request's
`instances`, and joins the answers of each request again.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ts.torch_handler.request_envelope.json import JSONEnvelope

from device_io import AUDIO_FIELDS, Row


def open_envelopes(given: Sequence[Any]) -> tuple[list[tuple[int, Row]], bool]:
    """Return rows with a body, and for each which request of the batch it is of, by index.

    Tell too whether the envelope `json` joins their answers, as JSON whatever they are.
    """
    counts = _count_instances()
    if not counts:
        return [(owner, _as_row(each, "body")) for owner, each in enumerate(given)], False
    owners = [owner for owner, count in enumerate(counts) for _ in range(count)]
    # Not the body: an instance that was base64 is no JSON, although its request is.
    rows = [(owner, _as_row(each, "data")) for owner, each in zip(owners, given, strict=True)]
    return rows, True


def _as_row(given: Any, field: str) -> Row:
    """Return what TorchServe or an envelope hands over as a row.

    A bare object of JSON has neither a row's fields nor the bytes that those of a form are.
    """
    if not isinstance(given, Mapping):
        return {field: given}
    is_row = any(name in given for name in AUDIO_FIELDS)
    from_form = any(isinstance(value, bytes | bytearray) for value in given.values())
    return given if is_row or from_form or not given else {field: given}


def _count_instances() -> list[int]:
    """Return how many rows each request became, where the envelope `json` called the handler.

    The envelope keeps that to itself and tells the handler nothing, so its frame is looked up: a
    batch of several requests would otherwise give its statuses to the wrong ones.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, JSONEnvelope):
            return list(caller._lengths)
        frame = frame.f_back
    return []
