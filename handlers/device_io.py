"""What every handler shares: device and dtype, settings, request payloads and errors."""

import ast
import base64
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import ConfigDict, ValidationError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Row = Mapping[str, Any]
Settings = TypeVar("Settings")

# Where a recording may be: TorchServe's own names, and the one that speech services use.
AUDIO_FIELDS = ("data", "body", "file")

# How each handler's settings are read: no unknown keys, no conversions such as "yes" to true.
STRICT = ConfigDict(extra="forbid", strict=True)

# cuBLAS and cuDNN multiply bfloat16 natively from Ampere on.
FIRST_BFLOAT16_CUDA_CAPABILITY = (8, 0)


class RequestError(Exception):
    """A request that cannot be answered: an HTTP status, an error type and what to change.

    `message` says what was expected, what arrived and for which field, never the payload itself.
    `retry_after_s` is when the same request may be answered.
    """

    def __init__(
        self, status: int, kind: str, message: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.kind = kind
        self.message = message
        # RFC 9110, section 10.2.3.
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    def body(self) -> dict[str, int | str]:
        """Return the error body, in the shape of TorchServe's own."""
        return {"code": self.status.value, "type": self.kind, "message": self.message}


class Answer(NamedTuple):
    """What a request gets: TorchServe chooses the media type where none is named."""

    content: Any
    media_type: str | None = None
    headers: Mapping[str, str] = {}


def choose_device(gpu_id: int | None) -> torch.device:
    """Return the device of this worker: the GPU that TorchServe gave it, else the CPU."""
    if gpu_id is None or gpu_id < 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the model's dtype: `auto` is bfloat16 where the hardware multiplies it natively."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether `device` has bfloat16 matrix instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_BFLOAT16_CUDA_CAPABILITY
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def limit_threads(threads: int | None, config: Mapping[str, Any] | None) -> None:
    """Give this worker `threads` intra-op threads, by default its share of the cores.

    `config` is the model's YAML: its workers share the machine.
    """
    workers = max(1, int((config or {}).get("maxWorkers") or 1))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // workers))


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
    choices = list(getattr(settings_class, "__dataclass_fields__", ()))
    try:
        return settings_class(**section)
    except ValidationError as error:
        problems = (_describe_problem(problem, choices) for problem in error.errors())
        raise ValueError(" ".join(f"{section_name}{each}." for each in problems)) from error


def _describe_problem(problem: Mapping[str, Any], choices: Sequence[str]) -> str:
    key = "".join(f".{part}" for part in problem["loc"])
    said = str(problem["msg"])
    said = said[0].lower() + said[1:]
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key}: expected a key out of {', '.join(choices)}, got this one"
    return f"{key}: {said}, got {problem['input']!r}" if key else f": {said}"


def request_header(context: Any, index: int, name: str) -> str | None:
    """Return a request's header, whatever the case in which the client wrote its name."""
    if context is None or not context.request_processor:
        return None
    headers = context.get_all_request_header(index)
    # TorchServe keeps what it knows of a form's fields in the same place, by their names.
    found = (value for key, value in headers.items() if key.lower() == name.lower())
    return next((value for value in found if isinstance(value, str)), None)


def preferred_media_type(accept: str, media_types: Sequence[str]) -> str:
    """Return the media type that an `Accept` header weighs most, the first where it names none.

    RFC 9110, section 12.5.
    """
    best, best_weight = media_types[0], 0.0
    for choice in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in choice.split(";"))
        weight = next((_weight(each) for each in parameters if each.startswith("q=")), 1.0)
        if media_type in media_types and weight > best_weight:
            best, best_weight = media_type, weight
    return best


def _weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0


def came_by_http(context: Any, index: int) -> bool:
    """Tell whether a row came by HTTP, whose requests TorchServe marks, and not by gRPC."""
    return request_header(context, index, "explain") is not None


def wants_explanation(context: Any, index: int) -> bool:
    """Tell whether a row of the batch came to /explanations rather than to /predictions."""
    return request_header(context, index, "explain") == "True"


def refuse_explanation(context: Any, index: int) -> None:
    """Raise `RequestError` 422 where a row asks for an explanation that its model cannot give."""
    if wants_explanation(context, index):
        raise explanation_unsupported()


def explanation_unsupported() -> RequestError:
    """Return the error of a request for an explanation that the model is not configured for."""
    return RequestError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "ExplanationUnsupported",
        "Expected a request to /predictions: this model is not configured for explanations.",
    )


def request_body(row: Row, fields: Sequence[str] = ("data", "body")) -> Any:
    """Return a row's payload, from the first of its `fields` that has one.

    Raises `RequestError` 400 where there is none.
    """
    for field in fields:
        payload = row.get(field)
        if payload is not None and not (
            isinstance(payload, str | bytes | bytearray) and not payload
        ):
            return payload
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "MissingPayload",
        f"Expected a payload in the field {' or '.join(fields)}, got none or an empty one. Send a "
        "file with curl -T FILE, or text with curl -H 'Content-Type: text/plain' --data-binary "
        "TEXT.",
    )


def request_audio(row: Row) -> bytes:
    """Return a row's payload as the bytes of a recording, from JSON as base64.

    Raises `RequestError` 400 or 415.
    """
    payload = request_body(row, AUDIO_FIELDS)
    if isinstance(payload, Mapping):
        return _from_base64(payload)
    if isinstance(payload, bytes | bytearray):
        return bytes(payload)
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedAudio",
        "Expected the bytes of a recording in body, got text. Send the file itself with "
        "curl -T FILE.",
    )


def _from_base64(fields: Mapping[str, Any]) -> bytes:
    encoded = request_body(fields, AUDIO_FIELDS)
    # Without its line breaks, which the command base64 writes.
    with suppress(ValueError, AttributeError):
        return base64.b64decode("".join(encoded.split()), validate=True)
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "InvalidBase64",
        f"Expected a recording in base64 in the JSON field {' or '.join(AUDIO_FIELDS)}, got "
        "something else there.",
    )


def as_text(payload: str | bytes | bytearray, field: str = "body") -> str:
    """Return a payload as text; raises `RequestError` 400 where its bytes are not UTF-8."""
    if isinstance(payload, str):
        return payload
    try:
        return bytes(payload).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "InvalidEncoding",
            f"Expected UTF-8 text in {field}, got bytes that are not, at byte {error.start}.",
        ) from None


def as_fields(payload: Any, declared_json: bool) -> str | Mapping[str, Any]:
    """Return a payload as an object's fields, or as plain text where it is not an object.

    Text that begins like an object is read as JSON, then as the single-quoted Python literal that
    older clients send. Raises `RequestError` 400 for bytes that are `declared_json` and are
    neither, and for JSON that is neither text nor an object.
    """
    if isinstance(payload, str | bytes | bytearray):
        # TorchServe hands over JSON's text as str, and as bytes only what it could not parse.
        unparsed = declared_json and not isinstance(payload, str)
        payload = _parse_object(as_text(payload), unparsed)
    if isinstance(payload, str | Mapping):
        return payload
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "UnexpectedJson",
        f"Expected text or a JSON object in body, got a JSON {type(payload).__name__}.",
    )


def _parse_object(text: str, declared_json: bool) -> Any:
    if not declared_json and not text.lstrip().startswith("{"):
        return text
    for parse in (json.loads, ast.literal_eval):
        # A hostile depth of brackets ends either parser in a RecursionError or MemoryError.
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(text.strip())
    if not declared_json:
        return text
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "MalformedJson",
        "Expected a JSON object in body, got malformed JSON.",
    )
