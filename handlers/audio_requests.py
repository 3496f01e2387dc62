"""From a row of a batch to recordings and parameters, and from what a task says to an answer."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from batches import JSON, Answer
from device_io import (
    Row,
    refuse_explanation,
    request_audio,
    request_header,
)
from speech_requests import ANYTHING, SAFETENSORS, choose_media_type, fields_of
from speechtext.allowance import Work, run_admitted
from speechtext.errors import RequestError
from speechtext.measurements import note_size
from speechtext.parameters import impossible
from speechtext.payloads import as_text
from speechtext.speech.audio import decode_audio
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.heads.base import AudioTask
from speechtext.speech.heads.features import Features
from speechtext.speech.pcm import parse_pcm_format

# Where the second of two recordings may be.
OTHER_FIELD = "other"


class AudioRequest(NamedTuple):
    """Waveforms of shape (samples,), what is asked of them, and the answer's media type."""

    waveforms: Sequence[torch.Tensor]
    parameters: Any
    media_type: str


def describe_task(
    task: AudioTask, settings: Any, max_audio_s: float, media_types: Sequence[str]
) -> dict[str, Any]:
    """Return what a model of recordings is, for who asks TorchServe to describe it."""
    labels = task.labels if task.has_labels else {}
    return {
        "kind": settings.mode,
        "labels": [labels[index] for index in sorted(labels)],
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "media_types": list(media_types),
        "streams": [],
        "explainable": False,
        "limits": {"max_audio_seconds": max_audio_s},
    }


def read_audio_request(
    row: Row,
    context: Any,
    index: int,
    limit_s: float,
    media_types: Sequence[str],
    read_parameters: Callable[[Mapping[str, Any]], Any],
    names: Collection[str],
    compares: bool,
) -> AudioRequest:
    """Return what a row of a batch asks for; raises `RequestError`.

    `names` are those of parameters; where a task `compares`, there may be another recording.
    """
    refuse_explanation(context, index)
    fields = fields_of(row)
    accept = request_header(context, index, "Accept") or ANYTHING
    media_type = choose_media_type(accept, fields.get("response_format"), media_types)
    parameters = read_parameters(asked_parameters(fields, names))
    pcm = parse_pcm_format(request_header(context, index, "Content-Type") or "")
    recordings = [request_audio(row)]
    if compares and fields.get(OTHER_FIELD) is not None:
        other = fields[OTHER_FIELD]
        recordings.append(request_audio({"body": other if fields is row else {"data": other}}))
    waveforms: list[torch.Tensor] = []
    for recording in recordings:
        left_s = limit_s - sum(map(len, waveforms)) / SAMPLE_RATE_HZ
        waveforms.append(decode_audio(recording, SAMPLE_RATE_HZ, left_s, pcm))
    note_size(index, "audio_s", sum(map(len, waveforms)) / SAMPLE_RATE_HZ)
    return AudioRequest(waveforms, parameters, media_type)


def asked_parameters(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the parameters of a request: the object `parameters`, or fields of these names.

    A form has each as text. Raises `ImpossibleRequestError` where `parameters` is no object.
    """
    given = _parsed(fields.get("parameters"))
    if given is None:
        return {name: _parsed(fields[name]) for name in names if name in fields}
    if not isinstance(given, Mapping):
        raise impossible("parameters", "a JSON object", f"a {type(given).__name__}")
    return dict(given)


def _parsed(value: Any) -> Any:
    """Return what a form's text says as JSON, else the value as it is."""
    if not isinstance(value, bytes | bytearray):
        return value
    text = as_text(value, "parameters")
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def run_task(
    task: AudioTask,
    requests: Sequence[AudioRequest],
    write: Callable[[AudioRequest, Sequence[Any]], Answer],
) -> list[Any]:
    """Answer the recordings of a batch that there is time for; the others are to come again."""

    def run(admitted: Sequence[AudioRequest]) -> list[Any]:
        pairs = [(each, request.parameters) for request in admitted for each in request.waveforms]
        found = iter(task.answer([each for each, _ in pairs], [asked for _, asked in pairs]))
        return [finish(request, [next(found) for _ in request.waveforms]) for request in admitted]

    def finish(request: AudioRequest, found: Sequence[Any]) -> Answer | RequestError:
        errors = (each for each in found if isinstance(each, RequestError))
        return next(errors, None) or write(request, found)

    return run_admitted(run, requests, [_work(task, request) for request in requests])


def _work(task: AudioTask, request: AudioRequest) -> Work:
    return task.cost.measure(sum(map(len, request.waveforms)) / SAMPLE_RATE_HZ)


def write_embedding(embedding: torch.Tensor, model: str) -> dict[str, Any]:
    """Return a vector in the shape of OpenAI's embeddings; there are no tokens to be counted."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embedding.tolist()}],
        "model": model,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def _features_as_json(features: Features) -> dict[str, Any]:
    values = features.values
    return {
        "shape": list(values.shape),
        "frame_seconds": features.frame_s,
        "values": values.tolist(),
    }


def _features_as_safetensors(features: Features) -> bytes:
    values = {"features": features.values.contiguous()}
    return save(values, {"frame_seconds": str(features.frame_s)})


FEATURE_WRITERS: Mapping[str, Callable[[Features], Any]] = {
    JSON: _features_as_json,
    SAFETENSORS: _features_as_safetensors,
}
