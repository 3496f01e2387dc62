"""From an inference request to requests of the engine, and from their answers to its response."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from gateway.engine import (
    Answer,
    ImpossibleRequestError,
    Kind,
    MalformedRequestError,
    Request,
)
from gateway.kserve.instances import AUDIO, decode_base64, speech_request, text_request
from gateway.kserve.shapes import InferRequest
from gateway.kserve.tensors import BINARY_SIZE, Elements, malformed, write_binary

HEADER_LENGTH = "inference-header-content-length"
OUTPUT = "output"
# The inputs of each kind of model: those that have to be there, and those that may.
INPUTS: Mapping[Kind | None, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(AUDIO, (("audio",), ())),
    Kind.SEQUENCE_CLASSIFICATION: (("text",), ("text_pair",)),
    Kind.TOKEN_CLASSIFICATION: (("text",), ()),
    Kind.QUESTION_ANSWERING: (("question", "context"), ()),
    Kind.TEXT_GENERATION: (("text",), ()),
    # A model of another's making: its body.
    None: (("data",), ()),
}
# Parameters of the protocol, which are not the model's.
OWN_PARAMETERS = {BINARY_SIZE, "binary_data_output", "content_type"}
OUTPUT_PARAMETERS = {"binary_data", "content_type"}
# How MLServer's clients say it.
BASE64 = "base64"


def check_outputs(asked: InferRequest) -> None:
    """Raise an error for an output that no model has, or a parameter that no output has."""
    for number, output in enumerate(asked.outputs or ()):
        if output.name != OUTPUT:
            raise malformed(f"outputs.{number}.name", OUTPUT, "another")
        if not (output.parameters or {}).keys() <= OUTPUT_PARAMETERS:
            raise ImpossibleRequestError(
                "InvalidParameter",
                f"outputs.{number}.parameters: expected {' or '.join(sorted(OUTPUT_PARAMETERS))}.",
            )


def build_requests(
    asked: InferRequest, elements: Sequence[Elements], kind: Kind | None
) -> list[Request]:
    """Return a request for each instance: the elements of one number of all inputs.

    Raises `MalformedRequestError` or `ImpossibleRequestError`.
    """
    names = name_inputs([tensor.name for tensor in asked.inputs], kind)
    counts = [len(each) for each in elements]
    if len(set(counts)) > 1:
        raise malformed("inputs", "tensors of one length", f"{counts}")
    parameters = model_parameters(asked)
    types = input_types(asked)
    if kind in AUDIO or kind is None:
        accept = wanted_media_type(asked)
        return _bytes_requests(elements[0], types[0] or "", kind, parameters, accept)
    columns = [
        [
            _as_text(each, types[i] == BASE64, f"inputs.{i}.data.{n}")
            for n, each in enumerate(column)
        ]
        for i, column in enumerate(elements)
    ]
    rows = zip(*columns, strict=True)
    return [text_request(dict(zip(names, row, strict=True)), parameters) for row in rows]


def _bytes_requests(
    elements: Elements,
    content_type: str,
    kind: Kind | None,
    parameters: Mapping[str, Any],
    accept: str | None,
) -> list[Request]:
    """Return requests for recordings, or for what another model takes."""
    # A recording is no text: JSON has it in base64.
    encoded = kind in AUDIO or content_type == BASE64
    media_type = content_type if "/" in content_type else None
    return [
        speech_request(kind, _as_bytes(each, encoded, i), parameters, media_type, accept)
        for i, each in enumerate(elements)
    ]


def name_inputs(given: Sequence[str], kind: Kind | None) -> list[str]:
    """Return the model's names of the inputs: a single one that a model takes may have any name."""
    required, optional = INPUTS[kind]
    if len(given) == len(required) == 1:
        return list(required)
    known = set(required) | set(optional)
    if len(set(given)) < len(given) or not set(required) <= set(given) <= known:
        also = f", and maybe {' and '.join(optional)}" if optional else ""
        got = [each if each in known else "another" for each in given]
        raise malformed("inputs", f"{' and '.join(required)}{also}", " and ".join(got))
    return list(given)


def model_parameters(asked: InferRequest) -> dict[str, Any]:
    """Return the parameters of the request and of its inputs that are the model's."""
    parameters = dict(asked.parameters or {})
    for tensor in asked.inputs:
        parameters |= tensor.parameters or {}
    return {name: value for name, value in parameters.items() if name not in OWN_PARAMETERS}


def input_types(asked: InferRequest) -> list[str | None]:
    """Return what each input says that its elements are, else what the request says of all."""
    general = _content_type(asked.parameters, "parameters")
    own = [
        _content_type(each.parameters, f"inputs.{number}.parameters")
        for number, each in enumerate(asked.inputs)
    ]
    return [each or general for each in own]


def wanted_media_type(asked: InferRequest) -> str | None:
    """Return the media type in which the output is asked for."""
    for number, output in enumerate(asked.outputs or ()):
        wanted = _content_type(output.parameters, f"outputs.{number}.parameters")
        if wanted and "/" in wanted:
            return wanted
    return None


def _content_type(parameters: Mapping[str, Any] | None, place: str) -> str | None:
    """Return what elements are by the parameters of `place`: `str`, `base64` or a media type."""
    given = (parameters or {}).get("content_type")
    if given is None:
        return None
    # It becomes a header.
    if isinstance(given, str) and given.isascii() and given.isprintable():
        return given
    raise malformed(f"{place}.content_type", "a media type", "something else")


def _as_bytes(element: str | bytes, encoded: bool, number: int) -> bytes:
    if isinstance(element, bytes):
        return element
    return decode_base64(element, f"inputs.0.data.{number}") if encoded else element.encode()


def _as_text(element: str | bytes, encoded: bool, place: str) -> str:
    if isinstance(element, str):
        if not encoded:
            return element
        element = decode_base64(element, place)
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise MalformedRequestError(
            "InvalidEncoding", f"{place}: expected text in UTF-8, got other bytes."
        ) from None


def write_answers(
    asked: InferRequest, answers: Sequence[Answer], model: str, version: str
) -> Response:
    """Return the answers as one tensor, in JSON or as binary data behind it."""
    output: dict[str, Any] = {"name": OUTPUT, "shape": [len(answers)], "datatype": "BYTES"}
    parameters: dict[str, Any] = {}
    if len(types := {each.media_type for each in answers}) == 1:
        parameters["content_type"] = types.pop()
    content: dict[str, Any] = {
        "model_name": model,
        "outputs": [output | {"parameters": parameters}],
    }
    content |= {"model_version": version} if version else {}
    content |= {"id": asked.id} if asked.id is not None else {}
    (output,) = content["outputs"]
    if not wants_binary(asked):
        try:
            output["data"] = [each.body.decode() for each in answers]
        except UnicodeDecodeError:
            # As inputs say it, and MLServer.
            output["data"] = [b64encode(each.body).decode() for each in answers]
            parameters["content_type"] = BASE64
        return JSONResponse(content)
    binary = write_binary([each.body for each in answers])
    parameters[BINARY_SIZE] = len(binary)
    head = json.dumps(content).encode()
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(head + binary, headers=headers, media_type="application/octet-stream")


def wants_binary(asked: InferRequest) -> bool:
    """Tell whether the output is asked for as binary data, for itself or with all outputs."""
    wanted = (asked.parameters or {}).get("binary_data_output", False)
    for output in asked.outputs or ():
        wanted = (output.parameters or {}).get("binary_data", wanted)
    return wanted is True
