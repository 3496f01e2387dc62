"""What all handlers share: the rows of a TorchServe batch, their headers, the worker's device."""

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from speechtext.devices import choose_device, limit_threads, prepare_device
from speechtext.errors import MalformedRequestError, UnsupportedMediaError, explanation_unsupported
from speechtext.host_memory import keep_freed, limit_products

Row = Mapping[str, Any]

# That of TorchServe where a model's YAML has none.
RESPONSE_TIMEOUT_S = 120.0
# Where a recording may be: TorchServe's own names, and the one that speech services use.
AUDIO_FIELDS = ("data", "body", "file")
# And Hugging Face's.
JSON_AUDIO_FIELDS = (*AUDIO_FIELDS, "inputs")
# How `huggingface_hub.InferenceClient` begins the name that it gives itself, after the library's.
HUB_CLIENT = "hf_hub/"
# Kinds of clients whose `Accept` is read once: each sends the same with every request.
KNOWN_CLIENTS = 64


def prepare_worker(context: Any, threads: int | None) -> tuple[Path, torch.device]:
    """Return the folder of a worker's archive and its device; limit its threads and memory.

    By default the workers of a model share the machine's cores.
    """
    workers = int((context.model_yaml_config or {}).get("maxWorkers") or 1)
    limit_threads(threads, workers)
    limit_products()
    keep_freed()
    properties = context.system_properties
    device = choose_device(properties.get("gpu_id"))
    prepare_device(device)
    return Path(properties["model_dir"]), device


def response_timeout_s(context: Any) -> float:
    """Return after how many seconds without an answer TorchServe ends this worker."""
    config = (context.model_yaml_config if context is not None else None) or {}
    return float(config.get("responseTimeout") or RESPONSE_TIMEOUT_S)


def request_headers(context: Any, index: int) -> dict[str, str]:
    """Return a request's headers, under the names that the client wrote.

    TorchServe keeps what it knows of a form's fields, a mapping for each, in the same place.
    """
    if context is None or not context.request_processor:
        return {}
    kept = context.get_all_request_header(index)
    return {name: value for name, value in kept.items() if isinstance(value, str)}


def request_header(context: Any, index: int, name: str) -> str | None:
    """Return a request's header, whatever the case in which the client wrote its name."""
    headers = request_headers(context, index)
    return next((headers[each] for each in headers if each.lower() == name.lower()), None)


def preferred_media_type(accept: str, media_types: Sequence[str]) -> str:
    """Return the media type that an `Accept` header weighs most, the first where it names none.

    RFC 9110, section 12.5.1. Parameters such as a charset do not matter.
    """
    return _read_accept(accept).best_match(media_types) or media_types[0]


@lru_cache(maxsize=KNOWN_CLIENTS)
def _read_accept(accept: str) -> MIMEAccept:
    ranges = parse_accept_header(accept, MIMEAccept)
    return MIMEAccept([(each.partition(";")[0], weight) for each, weight in ranges])


def is_hub_client(context: Any, index: int) -> bool:
    """Tell whether a request is of `huggingface_hub.InferenceClient`, by its own name."""
    return HUB_CLIENT in (request_header(context, index, "user-agent") or "")


def came_by_prediction(context: Any, index: int) -> bool:
    """Tell whether a row came by HTTP to /predictions or /explanations, as TorchServe marks it."""
    return request_header(context, index, "explain") is not None


def wants_description(context: Any, index: int) -> bool:
    """Tell whether a row is TorchServe's question what the model is.

    `GET /models/NAME?customized=true` asks it; a prediction with such a header does not.
    """
    asked = request_header(context, index, "describe") == "True"
    return asked and not came_by_prediction(context, index)


def wants_explanation(context: Any, index: int) -> bool:
    """Tell whether a row of the batch came to /explanations rather than to /predictions."""
    return request_header(context, index, "explain") == "True"


def refuse_explanation(context: Any, index: int) -> None:
    """Raise `ImpossibleRequestError` where a row asks for what its model cannot explain."""
    if wants_explanation(context, index):
        raise explanation_unsupported()


def request_body(row: Row, fields: Sequence[str] = ("data", "body")) -> Any:
    """Return a row's payload, from the first of its `fields` that has one.

    Raises `MalformedRequestError` where there is none.
    """
    for field in fields:
        payload = row.get(field)
        if payload is not None and not (
            isinstance(payload, str | bytes | bytearray) and not payload
        ):
            return payload
    raise MalformedRequestError(
        "MissingPayload",
        f"Expected a payload in the field {' or '.join(fields)}, got none or an empty one. Send a "
        "file with curl -T FILE, or text with curl -H 'Content-Type: text/plain' --data-binary "
        "TEXT.",
    )


def request_audio(row: Row) -> bytes:
    """Return a row's payload as the bytes of a recording, from JSON as base64.

    Raises `MalformedRequestError` or `UnsupportedMediaError`.
    """
    payload = request_body(row, AUDIO_FIELDS)
    if isinstance(payload, Mapping):
        return _from_base64(payload)
    if isinstance(payload, bytes | bytearray):
        return bytes(payload)
    raise UnsupportedMediaError(
        "UnsupportedAudio",
        "Expected the bytes of a recording in body, got text. Send the file itself with "
        "curl -T FILE.",
    )


def _from_base64(fields: Mapping[str, Any]) -> bytes:
    encoded = request_body(fields, JSON_AUDIO_FIELDS)
    # Without its line breaks, which the command base64 writes.
    with suppress(ValueError, AttributeError):
        return base64.b64decode("".join(encoded.split()), validate=True)
    raise MalformedRequestError(
        "InvalidBase64",
        f"Expected a recording in base64 in the JSON field {' or '.join(JSON_AUDIO_FIELDS)}, got "
        "something else there.",
    )
