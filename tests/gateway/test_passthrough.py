"""The engine's own contract through the gateway: the same bytes, statuses and headers."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from support.common import EXAMPLES
from support.waiting import until
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
REVIEW = (EXAMPLES / "review_accepted.txt").read_bytes()
QUESTION = (EXAMPLES / "question.json").read_bytes()
# What is of each answer alone, and of each connection.
OWN_HEADERS = {"connection", "date", "transfer-encoding", "x-request-id"}
TEXT, JSON, AUDIO = "text/plain", "application/json", "audio/wav"


class Case(NamedTuple):
    """A request."""

    path: str
    body: bytes = b""
    content_type: str = ""
    accept: str = ""
    method: str = "POST"
    status: int = 200

    def headers(self) -> dict[str, str]:
        named = {"Content-Type": self.content_type, "Accept": self.accept}
        return {name: value for name, value in named.items() if value}


STREAM = json.dumps(
    {
        "inputs": "Once upon a time",
        "parameters": {"max_new_tokens": 8, "do_sample": False, "seed": 3},
        "stream": True,
    }
).encode()
CASES = [
    Case("/predictions/wav2vec2", SPEECH, AUDIO),
    Case("/predictions/wav2vec2", SPEECH, AUDIO, JSON),
    Case("/predictions/wav2vec2/1.0", SPEECH, AUDIO, "text/vtt"),
    Case("/predictions/wav2vec2/1.0/some%20more/steps?with=a&query", SPEECH, AUDIO),
    Case("/predictions/emformer_asr", SPEECH, AUDIO, method="PUT"),
    Case("/predictions/emformer_asr", SPEECH, AUDIO, "application/x-ndjson"),
    Case("/explanations/emformer_asr", SPEECH, AUDIO),
    Case("/predictions/bert_seq_classification", REVIEW, TEXT),
    Case("/explanations/bert_seq_classification", REVIEW, TEXT, "text/html"),
    Case("/predictions/bert_token_classification", b"Maria Rossi works for Acme.", TEXT),
    Case("/predictions/bert_question_answering", QUESTION, JSON),
    Case("/predictions/gpt2_text_generation", STREAM, JSON),
    Case("/predictions/wav2vec2", b"no audio at all", AUDIO, status=415),
    Case("/predictions/bert_seq_classification", b'{"text": ', JSON, status=400),
    Case(
        "/predictions/bert_seq_classification",
        b'{"inputs": "a", "parameters": {"no": 1}}',
        JSON,
        status=422,
    ),
    Case("/predictions/wav2vec2", method="POST", status=400),
    Case("/predictions/whisper", SPEECH, AUDIO, status=404),
    Case("/predictions/wav2vec2/9.9", SPEECH, AUDIO, status=404),
    Case("/predictions/", SPEECH, AUDIO, status=404),
    Case("/predictions/bert_seq_classification", method="DELETE", status=400),
    Case("/ping", method="POST"),
    Case("/ping", method="GET"),
]


def ask(url: str, case: Case) -> httpx2.Response:
    return httpx2.request(
        case.method,
        f"{url}{case.path}",
        content=case.body,
        headers=case.headers(),
        timeout=120,
    )


def lasting_headers(response: httpx2.Response) -> list[tuple[str, str]]:
    named = [(name.lower(), value) for name, value in response.headers.multi_items()]
    return sorted(each for each in named if each[0] not in OWN_HEADERS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.path}-{case.accept}")
def test_answers_are_those_of_the_engine(case: Case, gateway_url: str, inference_url: str) -> None:
    through, direct = ask(gateway_url, case), ask(inference_url, case)
    assert direct.status_code == case.status
    assert through.status_code == direct.status_code
    assert lasting_headers(through) == lasting_headers(direct)
    if "event-stream" in direct.headers.get("content-type", ""):
        # The seed of each is its own.
        assert events(through.text) == events(direct.text)
    else:
        assert through.content == direct.content


def events(text: str) -> list[str]:
    return [json.loads(line[5:])["token"]["text"] for line in text.splitlines() if line]


def test_stream_arrives_in_its_parts(gateway_url: str) -> None:
    case = next(each for each in CASES if each.body == STREAM)
    with httpx2.stream(
        "POST", f"{gateway_url}{case.path}", content=case.body, headers=case.headers()
    ) as response:
        parts = list(response.iter_raw())
    assert len(events(b"".join(parts).decode())) == 8
    # A part that was waited for is not held back; those that come together are read together.
    assert len(parts) > 1


def test_body_of_unknown_length_is_passed_on_as_it_comes(gateway_url: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield SPEECH[:10_000]
        yield SPEECH[10_000:]

    response = httpx2.post(f"{gateway_url}/predictions/emformer_asr", content=pieces())
    assert response.text == "turn on the kitchen lights"


def test_hundred_requests_at_once_get_their_own_answers(
    gateway_url: str, inference_url: str
) -> None:
    texts = [f"The room number {number} was dirty." for number in range(100)]

    def explain(text: str) -> list[str]:
        reply = httpx2.post(
            f"{gateway_url}/predictions/bert_token_classification",
            content=text.encode(),
            headers={"Content-Type": TEXT},
            timeout=120,
        )
        assert reply.status_code == 200
        return ["".join(token for token, _ in reply.json())]

    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(explain, texts))
    for number, (tokens,) in enumerate(found):
        assert str(number) in tokens.replace("##", "")


@pytest.mark.parametrize(
    "path", ["/predictions/../models", "/predictions/%2e%2e/models", "/predictions/..%2fmodels"]
)
def test_other_addresses_of_the_engine_are_not_reached(gateway: RunningGateway, path: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_names_of_requests_are_kept_or_given(gateway_url: str) -> None:
    def name(given: str | None) -> str:
        headers = {} if given is None else {"X-Request-Id": given}
        return str(httpx2.get(f"{gateway_url}/ping", headers=headers).headers["x-request-id"])

    assert name("order-66.a_b") == "order-66.a_b"
    for strange in (None, "", "two words", "a" * 129, '"quoted"'):
        assert name(strange) != strange
        assert len(name(strange)) == 32
    refused = httpx2.get(f"{gateway_url}/nowhere", headers={"X-Request-Id": "mine"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (404, "mine")


def test_name_of_a_request_is_in_the_log_of_the_engine(
    gateway_url: str, server: TrialServer
) -> None:
    case = next(each for each in CASES if each.body == REVIEW)
    headers = case.headers() | {"X-Request-Id": "traced-through"}
    httpx2.post(f"{gateway_url}{case.path}", content=case.body, headers=headers)
    assert '"x_request_id": "traced-through"' in server_log(server)


def server_log(server: TrialServer) -> str:
    return (server.folder / "logs" / "torchserve.log").read_text(encoding="utf-8")


def test_log_has_no_content(gateway: RunningGateway) -> None:
    canary = "zxqv-canary"
    for path in ("/predictions/bert_seq_classification", "/predictions/wav2vec2", "/nowhere"):
        for method in ("GET", "POST"):
            httpx2.request(
                method,
                f"{gateway.url}{path}?text={canary}",
                content=canary.encode(),
                headers={"Content-Type": canary, "X-Canary": canary, "User-Agent": canary},
            )
    until(lambda: "POST /predictions/bert_seq_classification 200" in gateway.log())
    until(lambda: "/nowhere 404" in gateway.log())
    assert canary not in gateway.log()


def test_body_over_the_limit_is_refused_with_and_without_its_length(
    server: TrialServer, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, server.properties, max_body_bytes=1000) as small:
        url = f"{small.url}/predictions/bert_seq_classification"
        allowed = httpx2.post(url, content=b"good " * 200, headers={"Content-Type": TEXT})
        declared = httpx2.post(url, content=b"a" * 1001)
        counted = httpx2.post(url, content=iter([b"a" * 600, b"a" * 600]))
    assert allowed.status_code == 200
    for refused in (declared, counted):
        assert refused.status_code == 413
        assert refused.json()["type"] == "RequestTooLarge"
