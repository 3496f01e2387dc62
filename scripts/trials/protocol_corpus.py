"""Broken requests and frames in the protocols of the gateway, made anew from a seed."""

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trials.broken_audio import AUDIO
from trials.corpus import (
    CONTENT_TYPES,
    FIELDS,
    METHODS,
    MODELS,
    PARAMETERS,
    Case,
    make_value,
    odd_json_text,
    post_json,
)
from trials.corpus import make_cases as make_contract_cases
from trials.good_traffic import SPEECH
from trials.http_client import Request

BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
TRANSCRIPTION_FIELDS = (
    "file", "model", "language", "prompt", "keywords", "keywords[]", "response_format", "stream",
    "temperature", "timestamp_granularities[]", "include[]", "chunking_strategy", "unheard_of", "",
)  # fmt: skip
COMPLETION_FIELDS = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options",
    "logprobs", "echo", "stop", "presence_penalty", "frequency_penalty", "best_of", "logit_bias",
    "user", "seed", "suffix", "unheard_of",
)  # fmt: skip
TENSOR_FIELDS = ("name", "shape", "datatype", "data", "parameters", "contents", "unheard_of")
INFER_FIELDS = ("id", "inputs", "outputs", "parameters", "unheard_of")
DATATYPES = ("BYTES", "BYTES", "FP32", "INT64", "BOOL", "FP16", "bytes", "", 7)
SHAPES: Sequence[Any] = ([1], [1], [2], [0], [-1], [1, 1], [2**40], [2**62, 4], [], "1", [None])
WORDS = (
    "json", "text", "srt", "vtt", "verbose_json", "diarized_json", "word", "segment", "logprobs",
    "true", "false", "en", "0", "-1", "nan", "1e999",
)  # fmt: skip
API_TARGETS = (
    "/v1", "/v1/", "/v1/models/", "/v1/models/nobody", "/v1/models/nobody:predict", "/v1/audio",
    "/v1/models/%00:explain", "/v1/models/wav2vec2:train", "/v2/models", "/v2/models/nobody",
    "/v2/models/nobody/infer", "/v2/models/wav2vec2/versions/9/infer", "/v2/health/sick",
    "/v1/realtime", "/live/wav2vec2", "/v1/audio/translations", "/v1/chat/completions",
    "/docs/../x", "/openapi.json?x=1", "/metrics/", "/%2e%2e/gateway.yaml", "/page/../settings.py",
)  # fmt: skip
EVENTS = (
    "session.update", "input_audio_buffer.append", "input_audio_buffer.commit",
    "input_audio_buffer.clear", "response.create", "conversation.item.create", "unheard_of", "",
)  # fmt: skip
EVENT_FIELDS = ("event_id", "audio", "session", "item", "type", "transcription", "unheard_of")


def transcription(chance: random.Random) -> Request:
    """Return a form for a transcription with odd fields, or a broken recording in it."""
    parts = [_part("model", chance.choice((*MODELS, "nobody", "")).encode())]
    recording = chance.choice((SPEECH, chance.choice(AUDIO)(chance)))
    parts.append(_part("file", recording, '; filename="a.wav"'))
    for name in chance.sample(TRANSCRIPTION_FIELDS, chance.randrange(4)):
        value = chance.choice((chance.choice(WORDS), f"{make_value(chance)}"))
        parts.append(_part(name, value.encode("utf-8", "replace")))
    chance.shuffle(parts)
    kept = parts[: chance.choice((1, 2, 99, 99, 99))]
    end = chance.choice((*(f"--{BOUNDARY}--\r\n".encode(),) * 5, b"", b"--other--"))
    kind = chance.choice((FORM, FORM, FORM, FORM, FORM, "multipart/form-data", *CONTENT_TYPES))
    return Request("/v1/audio/transcriptions", b"".join(kept) + end, (("Content-Type", kind),))


def _part(name: str, content: bytes, extra: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def completion(chance: random.Random) -> Request:
    """Return a completion with odd fields."""
    names = chance.sample(COMPLETION_FIELDS, chance.randrange(1, 5))
    body = {"model": "gpt2_text_generation", "prompt": "Once", "max_tokens": 2}
    body |= {name: make_value(chance) for name in names}
    return post_json("/v1/completions", body)


def instances(chance: random.Random) -> Request:
    """Return instances of any kind, of KServe's first protocol."""
    verb = chance.choice(("predict", "predict", "explain"))
    rows: Any = [_instance(chance) for _ in range(chance.choice((0, 1, 2, 30)))]
    body = {chance.choice(("instances",) * 5 + ("inputs", "rows")): rows}
    if chance.random() < 0.2:
        body["instances"] = make_value(chance)
    return post_json(f"/v1/models/{chance.choice(MODELS)}:{verb}", body)


def _instance(chance: random.Random) -> Any:
    broken = base64.b64encode(chance.choice(AUDIO)(chance)).decode()
    named = {name: make_value(chance) for name in chance.sample((*FIELDS, *PARAMETERS), 2)}
    return chance.choice(("Great", make_value(chance), {"b64": broken}, {"b64": "?"}, named))


def tensors(chance: random.Random) -> Request:
    """Return tensors of KServe's second protocol whose parts do not fit together."""
    inputs = [_tensor(chance) for _ in range(chance.choice((1, 1, 1, 0, 2, 50)))]
    body: dict[str, Any] = {"inputs": inputs}
    if chance.random() < 0.3:
        body[chance.choice(INFER_FIELDS)] = make_value(chance)
    return post_json(f"/v2/models/{chance.choice(MODELS)}/infer", body)


def _tensor(chance: random.Random) -> dict[str, Any]:
    tensor: dict[str, Any] = {
        "name": chance.choice(("input", "inputs", "audio", "text", "")),
        "shape": chance.choice(SHAPES),
        "datatype": chance.choice(DATATYPES),
        "data": chance.choice((["Great"], [1.5], "Great", [["Great"]], make_value(chance))),
    }
    if chance.random() < 0.4:
        tensor[chance.choice(TENSOR_FIELDS)] = make_value(chance)
    return tensor


def binary_tensors(chance: random.Random) -> Request:
    """Return a tensor as bytes whose lengths do not fit together."""
    element = chance.choice((b"Great", SPEECH, chance.randbytes(40), b""))
    length = chance.choice((len(element), len(element), 0, 3, 2**31, 2**32 - 1))
    content = length.to_bytes(4, "little") + element
    size = chance.choice((len(content), len(content), 0, -1, 1, 10**9, 2**64, "many", None))
    tensor = {
        "name": "input",
        "shape": chance.choice(SHAPES),
        "datatype": chance.choice(DATATYPES),
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [tensor] * chance.choice((1, 1, 1, 2))}).encode()
    told = chance.choice((len(head), len(head), len(head), 0, 3, -1, 10**9, "x", ""))
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(told)),
    )
    return Request(f"/v2/models/{chance.choice(MODELS)}/infer", head + content, headers)


def odd_api_json(chance: random.Random) -> Request:
    """Return JSON that is deep, huge, cut off or no object, for each address that takes some."""
    targets = ("/v1/completions", "/v1/models/{}:predict", "/v2/models/{}/infer")
    target = chance.choice(targets).format(chance.choice(MODELS))
    kind = chance.choice(("application/json", "application/json", "text/plain", ""))
    return Request(target, odd_json_text(chance).encode(), (("Content-Type", kind),))


def odd_api_target(chance: random.Random) -> Request:
    """Return a request to where nothing is, or with another method."""
    good = ("/v1/completions", "/v1/audio/transcriptions", "/v2", "/v1/models", "/", "/livez")
    target = chance.choice((*API_TARGETS, *good))
    return Request(target, chance.choice((b"", b"x", b"{}")), method=chance.choice(METHODS))


FAMILIES: Sequence[Callable[[random.Random], Request]] = (
    transcription,
    transcription,
    completion,
    instances,
    tensors,
    binary_tensors,
    odd_api_json,
    odd_api_target,
)
# One in so many requests is of the contract that passes through.
PASSED_ON = 3


def make_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield broken requests, those of all families in turn."""
    passed_on = make_contract_cases(count, seed)
    for number in range(count):
        if number % PASSED_ON == 0:
            yield next(passed_on)
            continue
        make = FAMILIES[number % len(FAMILIES)]
        yield Case(make.__name__, make(random.Random(f"{seed}-door-{number}")))


def make_frame(chance: random.Random) -> str | bytes:
    """Return a frame of a live session that is no event, or an odd one."""
    if chance.random() < 0.2:
        return chance.choice((b"", chance.randbytes(99), SPEECH[:1000], b"\xff\xfe"))
    if chance.random() < 0.2:
        return odd_json_text(chance)
    event = {name: make_value(chance) for name in chance.sample(EVENT_FIELDS, 3)}
    event["type"] = chance.choice(EVENTS)
    if chance.random() < 0.5:
        event["audio"] = base64.b64encode(chance.randbytes(chance.randrange(500))).decode()
    return json.dumps(event)
