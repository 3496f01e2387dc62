"""From a row of a batch to recordings and parameters, and from what a task says to an answer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from batches import JSON, Answer
from device_io import (
    Row,
    request_audio,
    request_header,
    wants_explanation,
)
from request_fields import asked_parameters, fields_of
from speech_requests import ANYTHING, SAFETENSORS, choose_media_type
from speechtext.errors import RequestError
from speechtext.measurements import note_size
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
    explain: bool = False

    @property
    def duration_s(self) -> float:
        """Return the length of all its recordings."""
        return sum(map(len, self.waveforms)) / SAMPLE_RATE_HZ


class Form(NamedTuple):
    """What requests of a kind may ask for: parameters by `names`, and media types."""

    read: Callable[[Mapping[str, Any]], Any]
    names: Collection[str]
    media_types: Sequence[str]
    most_s: float


def describe_task(task: AudioTask, mode: str, form: Form, explainable: bool) -> dict[str, Any]:
    """Return what a model of recordings is, for who asks TorchServe to describe it."""
    labels = task.labels if task.has_labels else {}
    return {
        "kind": mode,
        "labels": [labels[index] for index in sorted(labels)],
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "media_types": list(form.media_types),
        "streams": [],
        "explainable": explainable,
        "limits": {"max_audio_seconds": form.most_s},
    }


def read_audio_request(
    row: Row, context: Any, index: int, form: Form, compares: bool
) -> AudioRequest:
    """Return what a row of a batch asks for; raises `RequestError`.

    Where a task `compares`, there may be another recording.
    """
    fields = fields_of(row)
    accept = request_header(context, index, "Accept") or ANYTHING
    media_type = choose_media_type(accept, fields.get("response_format"), form.media_types)
    parameters = form.read(asked_parameters(fields, form.names))
    pcm = parse_pcm_format(request_header(context, index, "Content-Type") or "")
    recordings = [request_audio(row)]
    if compares and fields.get(OTHER_FIELD) is not None:
        other = fields[OTHER_FIELD]
        recordings.append(request_audio({"body": other if fields is row else {"data": other}}))
    waveforms: list[torch.Tensor] = []
    for recording in recordings:
        left_s = form.most_s - sum(map(len, waveforms)) / SAMPLE_RATE_HZ
        waveforms.append(decode_audio(recording, SAMPLE_RATE_HZ, left_s, pcm))
    explain = wants_explanation(context, index)
    request = AudioRequest(waveforms, parameters, media_type, explain)
    note_size(index, "audio_s", request.duration_s)
    return request


def run_task(
    task: AudioTask,
    requests: Sequence[AudioRequest],
    write: Callable[[AudioRequest, Sequence[Any]], Answer],
) -> list[Any]:
    """Return the answer to each request, in order; the recordings go through the model together."""
    pairs = [(each, request.parameters) for request in requests for each in request.waveforms]
    if not pairs:
        return []
    found = iter(task.answer([each for each, _ in pairs], [asked for _, asked in pairs]))

    def finish(request: AudioRequest) -> Answer | RequestError:
        own = [next(found) for _ in request.waveforms]
        errors = (each for each in own if isinstance(each, RequestError))
        return next(errors, None) or write(request, own)

    return list(map(finish, requests))


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
