"""What each answer of a server says of itself, and what a form may hold, for every model."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import pytest

from trials.corpus import MODELS, TEXT_MODELS
from trials.good_traffic import AUDIO, JSON, LIVE_MODEL, SPEECH, TEXT

TIMEOUT_S = 120
PLAIN = "text/plain; charset=utf-8"
HOSTILE = "<script>alert(1)</script>"
QUESTION = {"question": f"Who is {HOSTILE}?", "context": f"{HOSTILE} works for Acme."}
GENERATION = "gpt2_text_generation"
# What each text model answers without being asked for a form.
PLAIN_TYPES = {
    "bert_seq_classification": PLAIN,
    "bert_token_classification": JSON,
    "bert_question_answering": PLAIN,
    GENERATION: PLAIN,
}
# Names that TorchServe, HTTP and the handlers have for what is no field.
NAMES = (
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
    "TS_Request_Sequence_Id",
    "ts_stream_next",
    "explain",
    "describe",
    "url_path",
    "accept",
    "Accept",
    "content-type",
    "Content-Type",
    "content-length",
    "user-agent",
    "host",
    "x-request-id",
)


def payload_of(model: str) -> bytes:
    if model not in TEXT_MODELS:
        return SPEECH
    few = {"parameters": {"max_new_tokens": 5}} if model == GENERATION else {}
    return json.dumps(QUESTION if "question" in model else {"text": HOSTILE, **few}).encode()


def post(url: str, path: str, **options: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/{path}", timeout=TIMEOUT_S, **options)


def check_headers(reply: httpx2.Response, content_type: str) -> None:
    assert reply.headers.get_list("content-type") == [content_type]
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]


def check_error(reply: httpx2.Response, status: int) -> None:
    assert reply.status_code == status
    check_headers(reply, JSON)
    assert reply.json()["code"] == status


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_answers_about_texts_say_what_they_are(model: str, inference_url: str) -> None:
    path, payload = f"predictions/{model}", payload_of(model)
    as_json = post(inference_url, path, content=payload, headers={"Content-Type": JSON})
    form = post(inference_url, path, files={"data": payload})
    browser = post(inference_url, path, data={"data": payload.decode()})
    for reply in (as_json, form, browser):
        assert (reply.status_code, reply.text) == (200, as_json.text)
        check_headers(reply, PLAIN_TYPES[model])
    if model == GENERATION:
        assert as_json.text.startswith(HOSTILE)
    wrapped = {"inputs": json.loads(payload) if "question" in model else HOSTILE}
    check_headers(post(inference_url, path, json=wrapped), JSON)
    check_error(post(inference_url, path, json={"parameters": {HOSTILE: 1}}), 400)
    check_error(post(inference_url, path, json={**wrapped, "parameters": {HOSTILE: 1}}), 422)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_explanations_say_what_they_are(model: str, inference_url: str) -> None:
    few = {"max_new_tokens": 2} if model == GENERATION else {"n_steps": 2}
    body = {**json.loads(payload_of(model)), "parameters": few}
    for media_type in (JSON, "text/html", "image/png"):
        reply = post(
            inference_url, f"explanations/{model}", json=body, headers={"Accept": media_type}
        )
        assert reply.status_code == 200
        check_headers(reply, media_type)
        if media_type == "text/html":
            assert HOSTILE not in reply.text
    check_error(post(inference_url, f"explanations/{model}", json={"parameters": {}}), 400)


def speech_types() -> Iterator[tuple[str, str, str]]:
    """Yield a verb, what is accepted and the type of the answer."""
    yield "predictions", "", PLAIN
    yield "predictions", "text/plain", PLAIN
    for media_type in (JSON, "text/vtt", "application/x-subrip"):
        yield "predictions", media_type, media_type
    for media_type in (JSON, "image/png"):
        yield "explanations", media_type, media_type
    yield "predictions", "application/x-ndjson", "application/x-ndjson"


@pytest.mark.parametrize("model", ["wav2vec2", "emformer_asr"])
def test_transcripts_say_what_they_are(model: str, inference_url: str) -> None:
    for verb, accept, content_type in speech_types():
        headers = {"Content-Type": AUDIO, "Accept": accept}
        reply = post(inference_url, f"{verb}/{model}", content=SPEECH, headers=headers)
        assert reply.status_code == 200
        check_headers(reply, content_type)
    for verb in ("predictions", "explanations"):
        path = f"{verb}/{model}"
        check_error(post(inference_url, path, content=b"<script>"), 415)
        check_error(post(inference_url, path, content=b"{}", headers={"Content-Type": JSON}), 400)


def test_live_answers_say_what_they_are(inference_url: str) -> None:
    path = f"predictions/{LIVE_MODEL}"
    headers = {"ts_request_sequence_id": HOSTILE, "ts_request_sequence_start": "true"}
    check_headers(post(inference_url, path, content=SPEECH[:9_000], headers=headers), JSON)
    headers = {"ts_request_sequence_id": HOSTILE, "ts_request_sequence_end": "true"}
    check_headers(post(inference_url, path, content=SPEECH[9_000:], headers=headers), JSON)
    check_error(post(inference_url, path, content=SPEECH, headers=headers), 410)


def test_streams_say_what_they_are(inference_url: str) -> None:
    body = {"inputs": HOSTILE, "parameters": {"max_new_tokens": 3, "stream": True}}
    reply = post(inference_url, f"predictions/{GENERATION}", json=body)
    assert reply.headers["transfer-encoding"] == "chunked"
    check_headers(reply, "text/event-stream")
    assert reply.text.count("data:") == 3
    body["parameters"] = {"stream": True, "temperature": 0}
    check_error(post(inference_url, f"predictions/{GENERATION}", json=body), 422)


def forms_with(name: str, payload: bytes) -> Iterator[Mapping[str, Any]]:
    """Yield forms that have a payload and a field of a name, of several kinds."""
    kinds = ((None, b"true"), ("x", b"\xff\xfe"), ("x", b'{"a": 1}', JSON), ("x", "text", TEXT))
    for field in kinds:
        yield {"data": ("file", payload), name: field}


@pytest.mark.parametrize("model", MODELS)
def test_fields_of_a_form_are_no_headers(model: str, inference_url: str) -> None:
    """Whatever their names, the answer is the one that there is without them."""
    payload, path, headers = payload_of(model), f"predictions/{model}", {}
    if model == LIVE_MODEL:
        headers = {f"ts_request_sequence_{key}": "true" for key in ("id", "start", "end")}
    alone = post(inference_url, path, files={"data": payload}, headers=headers)
    assert alone.status_code == 200
    for name in NAMES:
        for files in forms_with(name, payload):
            reply = post(inference_url, path, files=files, headers=headers)
            assert (name, reply.status_code, reply.content) == (name, 200, alone.content)


def test_field_of_a_form_opens_no_session(inference_url: str) -> None:
    """Without the header, a session of one's own begins, whose name nobody chose."""
    files = {"data": ("file", SPEECH), "ts_request_sequence_id": (None, b"mine")}
    headers = {"ts_request_sequence_end": "true"}
    reply = post(inference_url, f"predictions/{LIVE_MODEL}", files=files, headers=headers)
    assert reply.status_code == 200
    assert reply.json()["session"] != "mine"
    assert reply.json()["text"] == "turn on the kitchen lights"
