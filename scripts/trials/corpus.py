"""Broken requests, made anew from a seed.

The same seed makes the same ones, but for the times and numbers that the audio library gives files.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from trials.broken_audio import AUDIO
from trials.good_traffic import LIVE_MODEL, SPEECH
from trials.http_client import Request

SPEECH_MODELS = ("wav2vec2", "emformer_asr")
TEXT_MODELS = (
    "bert_seq_classification",
    "bert_token_classification",
    "bert_question_answering",
    "gpt2_text_generation",
)
# Those of other heads; a server without them says so.
AUDIO_MODELS = (
    "wav2vec2_commands", "wav2vec2_speakers", "wav2vec2_voices", "wav2vec2_voiced",
    "wav2vec2_features",
)  # fmt: skip
MODELS = (*SPEECH_MODELS, LIVE_MODEL, *TEXT_MODELS)
VERBS = ("predictions", "predictions", "explanations")
FIELDS = ("inputs", "text", "text_pair", "question", "context", "target", "parameters", "stream")
PARAMETERS = (
    "top_k", "function_to_apply", "aggregation_strategy", "ignore_labels", "stride", "doc_stride",
    "max_answer_len", "max_seq_len", "max_question_len", "handle_impossible_answer",
    "align_to_words", "max_new_tokens", "do_sample", "temperature", "top_p", "stop", "seed",
    "repetition_penalty", "return_full_text", "details", "method", "n_steps", "tolerance",
    "granularity", "metrics", "unheard_of",
)  # fmt: skip
AUDIO_PARAMETERS = (
    "top_k", "function_to_apply", "by_window", "threshold", "min_gap_s", "min_duration_s", "layer",
    "pooling", "target", "method", "n_steps", "stretch_s", "diarize", "num_speakers",
    "known_speakers", "hotwords", "hotword_boost", "response_format", "other", "parameters",
)  # fmt: skip
CONTENT_TYPES = (
    "application/json", "application/json; charset=utf-16", "text/plain", "text/html",
    "text/plain; charset=latin-1", "audio/wav", "audio/L16", "audio/L16; rate=0",
    "audio/L16; rate=16000; channels=99", "audio/L16; rate=banana", "application/x-protobuf",
    "image/png", "multipart/form-data", "multipart/form-data; boundary=", "", ";;;", "a" * 3000,
    "application/x-www-form-urlencoded", "text/plain\tx", "t\u00e9xt/pl\u00e4in",
    "audio/L16; rate=" + "9" * 5_000,
)  # fmt: skip
ACCEPTS = (
    "*/*", "text/html", "image/png", "application/x-ndjson", "text/vtt;q=x", ",;,;", "q=1" * 900,
)  # fmt: skip
STRINGS = (
    "", " ", "\n\t", "\x00", "a\x00b", "\ufeff", "\u202e", "\ud800", "\udfff\ud800", "\U0001f600",
    "\u0301" * 200, "e\u0301", "\u200d" * 50, "\uffff", "\u6f22\u5b57", "[MASK]", "[PAD] [CLS]",
    "<s></s>", "<|endoftext|>", "<script>alert(1)</script>", "{{7*7}}", "%s%n", "'; --",
    "a" * 20_000, "word " * 5_000, "Maria Rossi works for Acme.", "../../etc/passwd",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**400, 99999)
TARGETS = (
    "/", "/predictions", "/predictions/", "/predictions/nobody", "//predictions/wav2vec2",
    "/predictions/wav2vec2/9.9", "/predictions/../models", "/predictions/%00", "/%ff%fe",
    "/predictions/wav2vec2/1.0/more/and/more", "/v1/models/wav2vec2:predict", "/models",
    "/predictions/wav2vec2?data=" + "x" * 3_000, "/explanations/nobody", "/" + "x" * 3_500,
    "/api-description", "/ping?x=1", "/predictions/wav2vec2;x", "*", "http://elsewhere/",
)  # fmt: skip
METHODS = ("POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD")
FORM_FIELDS = (
    "data", "body", "file", "accept", "explain", "host", "response_format", "", "../x", "\u00e9",
    "a" * 2_000, 'q"uote',
)  # fmt: skip
POST = b"POST /predictions/bert_seq_classification HTTP/1.1\r\n"
CHUNKED = POST + b"Host: x\r\nTransfer-Encoding: chunked\r\n"
SIZED = POST + b"Host: x\r\nContent-Length: 5\r\n"
MESSAGES = (
    b"\r\n\r\n",
    b"GARBAGE\r\n\r\n",
    POST.replace(b"1.1", b"1.0") + b"Content-Length: 5\r\n\r\nGreat",
    POST + b"Content-Length: 5\r\n\r\nGreat",
    b"POST / HTTP/9.9\r\n\r\n",
    POST + b"Host: x\r\nContent-Length: -1\r\n\r\n",
    POST + b"Host: x\r\nContent-Length: abc\r\n\r\n",
    POST + b"Host: x\r\nContent-Length: 99999999999\r\n\r\n",
    SIZED + b"Content-Length: 3\r\n\r\nGreat",
    CHUNKED + b"\r\nzz\r\nGreat\r\n0\r\n\r\n",
    CHUNKED + b"\r\n5\r\nGreat\r\n0\r\n\r\n",
    CHUNKED + b"Content-Length: 5\r\n\r\n5\r\nGreat\r\n0\r\n\r\n",
    SIZED + b"No colon here\r\n\r\nGreat",
    SIZED + b": empty\r\n\r\nGreat",
    SIZED + b"X: \xff\xfe\r\n\r\nGreat",
    SIZED + b"X: " + b"y" * 70_000 + b"\r\n\r\nGreat",
    b"GET /" + b"z" * 70_000 + b" HTTP/1.1\r\n\r\n",
)


class Case(NamedTuple):
    """A broken request and the family it is of."""

    family: str
    request: Request


def make_value(chance: random.Random, depth: int = 0) -> Any:
    """Return a value of any kind that JSON, or Python's JSON, has."""
    kind = chance.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return chance.choice(STRINGS)
    if kind == 3:
        return chance.choice(NUMBERS)
    if kind == 4:
        return chance.choice((None, True, False))
    if kind == 5:
        return chance.choice((float("nan"), float("inf"), -float("inf")))
    if kind == 6:
        return [make_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = (*FIELDS, *PARAMETERS, "start", "end", *STRINGS)
    return {chance.choice(names): make_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def _target(chance: random.Random, models: Sequence[str] = MODELS) -> str:
    return f"/{chance.choice(VERBS)}/{chance.choice(models)}"


def post_json(target: str, value: Any) -> Request:
    """Return a request with a value as JSON."""
    # Surrogates and infinities travel as Python writes them.
    return Request(target, json.dumps(value).encode(), (("Content-Type", "application/json"),))


def audio(chance: random.Random) -> Request:
    """Return a broken recording, as it is or in base64."""
    recording = chance.choice(AUDIO)(chance)
    target = _target(chance, (*SPEECH_MODELS, LIVE_MODEL, *AUDIO_MODELS))
    if chance.random() < 0.2:
        return post_json(target, {"data": base64.b64encode(recording).decode()})
    headers = [("Content-Type", chance.choice(("audio/wav", "application/octet-stream")))]
    headers += [("Accept", chance.choice(ACCEPTS))] * (chance.random() < 0.2)
    return Request(target, recording, tuple(headers))


def odd_audio_parameters(chance: random.Random) -> Request:
    """Return a good recording with parameters of any kind, or near their limits."""
    names = chance.sample(AUDIO_PARAMETERS, chance.randrange(1, 4))
    values = {name: chance.choice((make_value(chance), chance.choice(NUMBERS))) for name in names}
    recording = base64.b64encode(SPEECH).decode()
    if "diarize" in names and chance.random() < 0.7:
        values["diarize"] = True
    if "known_speakers" in names and chance.random() < 0.7:
        voice = chance.choice((recording, recording[:200], chance.choice(STRINGS)))
        values["known_speakers"] = {chance.choice(("Ann", *STRINGS)): voice}
    target = _target(chance, (*SPEECH_MODELS, *AUDIO_MODELS))
    return post_json(target, {"data": recording, **values})


def odd_fields(chance: random.Random) -> Request:
    """Return an object whose fields have values of any kind."""
    names = chance.sample(FIELDS, chance.randrange(1, 5))
    return post_json(_target(chance, TEXT_MODELS), {name: make_value(chance) for name in names})


def odd_parameters(chance: random.Random) -> Request:
    """Return a good text with parameters of any kind."""
    names = chance.sample(PARAMETERS, chance.randrange(1, 4))
    question = {"question": "Who works for Acme?", "context": "Maria Rossi works for Acme."}
    inputs = chance.choice(("Maria Rossi works for Acme.", question))
    body = {"inputs": inputs, "parameters": {name: make_value(chance) for name in names}}
    if chance.random() < 0.3:
        body["target"] = make_value(chance)
    return post_json(_target(chance, TEXT_MODELS), body)


def odd_json_text(chance: random.Random) -> str:
    """Return JSON that is deep, huge, cut off or no object."""
    return chance.choice(
        (
            "[" * chance.choice((10, 1_000, 100_000)),
            '{"inputs":' * chance.choice((10, 1_000, 100_000)) + "1",
            "9" * chance.choice((100, 5_000, 100_000)),
            json.dumps(make_value(chance)),
            json.dumps({"inputs": make_value(chance)})[:-1],
            '{"inputs": "a", "inputs": 1}',
            "{'inputs': 'a'}",
            '{"inputs": "\\ud83d"}',
            '{"text": NaN}',
            "{" + '"a":1,' * 5_000 + '"b":2}',
        )
    )


def odd_json(chance: random.Random) -> Request:
    """Return JSON that is deep, huge, cut off or no object."""
    text = odd_json_text(chance)
    kind = chance.choice(("application/json", "text/plain", "application/octet-stream"))
    return Request(_target(chance), text.encode(), (("Content-Type", kind),))


def odd_encoding(chance: random.Random) -> Request:
    """Return text in another encoding, or bytes that are none."""
    text = chance.choice(STRINGS)
    body = chance.choice(
        (
            text.encode("utf-16", "surrogatepass"),
            text.encode("utf-32", "surrogatepass"),
            text.encode("latin-1", "replace"),
            text.encode("utf-8", "surrogatepass"),
            chance.randbytes(chance.randrange(300)),
            b"\xff\xfe\x00",
            b"\xc3\x28",
        )
    )
    return Request(_target(chance), body, (("Content-Type", chance.choice(CONTENT_TYPES)),))


def odd_headers(chance: random.Random) -> Request:
    """Return a good body under headers that do not go with it."""
    body = chance.choice((SPEECH, b"Great", b'{"inputs": "Great"}'))
    pool = (
        *(("Content-Type", each) for each in CONTENT_TYPES),
        *(("Accept", each) for each in ACCEPTS),
        *(("explain", each) for each in ("True", "False", "maybe")),
        *(("describe", "True"), ("url_path", "../../x"), ("ts_stream_next", "true")),
        *(("X-Long", "x" * 5_000), ("X-Odd", "caf\u00e9 \u6f22"), ("Expect", "100-continue")),
        *(("User-Agent", "hf_hub/" + "1" * 500), ("Connection", "close, banana")),
        *(("Content-Encoding", "gzip"), ("Transfer-Encoding", "gzip"), ("Range", "bytes=5-")),
    )
    headers = chance.sample(pool, chance.randrange(1, 4))
    named = {name: (name, value) for name, value in headers}
    return Request(_target(chance, (*SPEECH_MODELS, *TEXT_MODELS)), body, tuple(named.values()))


def odd_session(chance: random.Random) -> Request:
    """Return a piece of a live session that was never opened, or under names in another case."""
    names = ("ts_request_sequence_id", "TS_Request_Sequence_ID", "ts_request_sequence_start")
    headers = [(name, chance.choice(("me", "true", "", "x" * 500, "\u00e9"))) for name in names]
    kept = chance.sample(headers, chance.randrange(1, 3))
    body = chance.choice((SPEECH, b"", SPEECH[:30], chance.randbytes(99)))
    return Request(f"/predictions/{LIVE_MODEL}", body, tuple(kept))


def multipart(chance: random.Random) -> Request:
    """Return a form whose parts are odd, or that is broken itself."""
    parts = []
    for _ in range(chance.choice((0, 1, 2, 5, 200))):
        name = chance.choice(FORM_FIELDS)
        content = chance.choice((SPEECH[:500], b"Great", b"", b"json"))
        extra = chance.choice(("", '; filename="../../evil"', '; filename=""', "; filename*=x"))
        kind = chance.choice(("", "\r\nContent-Type: application/json", "\r\nContent-Type: text/x"))
        head = f'Content-Disposition: form-data; name="{name}"{extra}{kind}'
        parts.append(b"--frontier\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    end = chance.choice(
        (b"--frontier--\r\n", b"--frontier--\r\n", b"", b"--other--", b"--frontier")
    )
    kind = chance.choice(("multipart/form-data; boundary=frontier",) * 4 + ("multipart/mixed",))
    return Request(_target(chance), b"".join(parts) + end, (("Content-Type", kind),))


def odd_target(chance: random.Random) -> Request:
    """Return a request to where nothing is, or with another method."""
    body = chance.choice((b"", b"x", SPEECH))
    return Request(chance.choice(TARGETS), body, method=chance.choice(METHODS))


def broken_message(chance: random.Random) -> Request:
    """Return bytes that are hardly HTTP."""
    return Request("", raw=chance.choice((*MESSAGES, chance.randbytes(200) + b"\r\n\r\n")))


FAMILIES: Sequence[Callable[[random.Random], Request]] = (
    audio,
    audio,
    odd_audio_parameters,
    odd_fields,
    odd_parameters,
    odd_json,
    odd_encoding,
    odd_headers,
    odd_session,
    multipart,
    odd_target,
    broken_message,
)


def make_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield broken requests, those of all families in turn."""
    for number in range(count):
        make = FAMILIES[number % len(FAMILIES)]
        yield Case(make.__name__, ended(make(random.Random(f"{seed}-{number}"))))


def ended(request: Request) -> Request:
    """Return a request that leaves no session open: that would hold the place of a good one."""
    if not request.target.endswith(LIVE_MODEL):
        return request
    return replace(request, headers=(*request.headers, ("ts_request_sequence_end", "true")))
