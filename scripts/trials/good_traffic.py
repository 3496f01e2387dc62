"""Good requests to every model, and whether an answer is the one that each gets alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from repository import EXAMPLES
from trials.http_client import Outcome, Request, send_alone

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
REVIEWS = (
    (EXAMPLES / "review_accepted.txt").read_text(encoding="utf-8"),
    "The room was dirty and I want a refund.",
    "Great",
)
# What rounding may change: numbers depend in their last digits on what else is in a batch.
TOLERANCE = 1e-3
TIMEOUT_S = 120.0
LIVE_MODEL = "emformer_asr_live"
JSON, TEXT, AUDIO = "application/json", "text/plain", "audio/wav"
# Requests, one after the other, each with the answer to it.
Script = Sequence[tuple[Request, bytes]]


def post(target: str, body: bytes | str | Mapping[str, Any], kind: str, **more: str) -> Request:
    """Return a request with a body of a content type; `more` are headers."""
    if isinstance(body, Mapping):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    headers = (("Content-Type", kind), *((key.replace("_", "-"), more[key]) for key in more))
    return Request(target, content, headers)


def predictions() -> list[Request]:
    """Return requests that are quick to answer, of every kind of task."""
    story = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 8}}
    tagged = {
        "inputs": "Maria Rossi works for Acme.",
        "parameters": {"aggregation_strategy": "max"},
    }
    question = (EXAMPLES / "question.json").read_bytes()
    return [
        post("/predictions/wav2vec2", SPEECH, AUDIO),
        post("/predictions/wav2vec2", SPEECH, AUDIO, Accept="text/vtt"),
        post("/predictions/emformer_asr", SPEECH, AUDIO),
        post("/predictions/emformer_asr", SPEECH, AUDIO, Accept="application/x-ndjson"),
        *(post("/predictions/bert_seq_classification", each, TEXT) for each in REVIEWS),
        post("/predictions/bert_seq_classification", {"inputs": REVIEWS[1]}, JSON),
        post("/predictions/bert_token_classification", "Maria Rossi works in Paris.", TEXT),
        post("/predictions/bert_token_classification", tagged, JSON),
        post("/predictions/bert_question_answering", question, JSON),
        post("/predictions/gpt2_text_generation", story, JSON),
    ]


def explanations() -> list[Request]:
    """Return requests to explain, of few steps."""
    few = {"text": REVIEWS[2], "parameters": {"n_steps": 5}}
    return [
        post("/explanations/bert_seq_classification", few, JSON),
        post("/explanations/wav2vec2", SPEECH, AUDIO),
        post("/explanations/emformer_asr", SPEECH, AUDIO),
    ]


def heads() -> list[Request]:
    """Return a request to each model whose head gives something else than words."""
    names = ("commands", "speakers", "voices", "voiced", "features")
    return [post(f"/predictions/wav2vec2_{name}", SPEECH, AUDIO) for name in names]


def pictures() -> list[Request]:
    """Return a request to each model that draws, for a picture: the first loads what draws it."""
    few = {"n_steps": 2}
    texts: Mapping[str, Mapping[str, Any]] = {
        "bert_seq_classification": {"text": REVIEWS[2]},
        "bert_token_classification": {"text": REVIEWS[2]},
        "bert_question_answering": {"question": "Who?", "context": "Maria works for Acme."},
        "gpt2_text_generation": {"text": "Once upon a time"},
    }
    return [
        *(
            post(f"/explanations/{model}", SPEECH, AUDIO, Accept="image/png")
            for model in ("wav2vec2", "emformer_asr")
        ),
        *(
            post(f"/explanations/{model}", {**text, "parameters": few}, JSON, Accept="image/png")
            for model, text in texts.items()
        ),
    ]


def session_headers(
    name: str, first: bool = False, last: bool = False, **others: str
) -> dict[str, str]:
    """Return the headers of a piece of live speech."""
    flags = {"ts_request_sequence_start": first, "ts_request_sequence_end": last}
    return {
        "ts_request_sequence_id": name,
        **{key: "true" for key, value in flags.items() if value},
        **others,
    }


@dataclass(frozen=True)
class Session:
    """A live recording, in pieces."""

    name: str
    pieces: Sequence[bytes]

    def requests(self) -> list[Request]:
        """Return a request for each piece."""
        target = f"/predictions/{LIVE_MODEL}"
        last = len(self.pieces) - 1
        sent = [session_headers(self.name, place == 0, place == last) for place in range(last + 1)]
        return [
            Request(target, piece, (("Content-Type", AUDIO), *headers.items()))
            for piece, headers in zip(self.pieces, sent, strict=True)
        ]


def cut_speech(pieces: int) -> list[bytes]:
    """Return the example in pieces."""
    size = -(-len(SPEECH) // pieces)
    return [SPEECH[start : start + size] for start in range(0, len(SPEECH), size)]


def learn_script(address: tuple[str, int], requests: Sequence[Request]) -> Script:
    """Return requests and what each is answered while nobody else asks.

    Raises `RuntimeError` where one is not.
    """
    learned = []
    for request in requests:
        outcome = send_alone(address, request, TIMEOUT_S)
        if outcome.status != HTTPStatus.OK:
            raise RuntimeError(f"{request.target} answered {outcome.status} before any trial")
        learned.append((request, outcome.body))
    return learned


def is_right(outcome: Outcome, expected: bytes) -> bool:
    """Tell whether an answer is the expected one, but for the rounding of numbers."""
    if outcome.status != 200:
        return False
    if outcome.body == expected:
        return True
    try:
        return alike(json.loads(outcome.body), json.loads(expected))
    except ValueError:
        return False


def alike(found: Any, expected: Any) -> bool:
    """Tell whether two values of JSON are the same, but for the rounding of numbers."""
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(found, dict) and isinstance(expected, dict):
        # The name of a live session is its own.
        named = found.keys() - {"session"}
        return found.keys() == expected.keys() and all(alike(found[k], expected[k]) for k in named)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    return type(found) is type(expected) and bool(found == expected)
