"""What a client sends before anybody asks who it is: headers, handshakes, encoded bodies, forms."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.http_server import MOST_HEADER_BYTES
from gateway.settings import parse_settings
from support.served_gateway import ServedGateway, run_listener, serve_gateway

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MUCH = b"a" * MOST_HEADER_BYTES
TIMEOUT_S = 30.0
NOBODY = "http://127.0.0.1:9"


def settings_of(address: str = NOBODY) -> Any:
    return parse_settings(
        {"torchserve": {"inference_address": address, "management_address": None}}
    )


@pytest.fixture(scope="module")
def served() -> Iterator[ServedGateway]:
    """Return an application without an engine and without models."""
    with serve_gateway(settings_of()) as running:
        yield running


def say(port: int, *parts: bytes) -> httpx2.Response:
    """Return the answer to what is sent; the server has to close the connection."""
    said = b""
    with closing(socket.create_connection(("127.0.0.1", port), TIMEOUT_S)) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with suppress(ConnectionResetError):
            while received := connection.recv(65_536):
                said += received
    head, _, body = said.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    return httpx2.Response(status, content=body)


@pytest.mark.parametrize(
    "parts",
    [
        (GET + b"X: ", MUCH, b"a"),
        (GET + b"X: " + MUCH + b"\r\n\r\n",),
        (GET, *[b"X: a\r\n" for _ in range(MOST_HEADER_BYTES // 6)]),
        (b"GET /" + MUCH + b" HTTP/1.1\r\n\r\n",),
        # Behind a request that was answered.
        (GET + b"\r\n" + GET + b"X: ", MUCH, MUCH),
    ],
    ids=["header", "whole", "headers", "target", "second"],
)
def test_headers_have_an_end(parts: tuple[bytes, ...], served: ServedGateway) -> None:
    answer = say(served.port, *parts)
    if parts[0].startswith(GET + b"\r\n"):
        assert answer.status_code == 200
        answer = httpx2.Response(431, content=answer.content.partition(b"\r\n\r\n")[2])
    assert answer.status_code == 431
    assert answer.json()["type"] == "HeadersTooLarge"


@pytest.mark.parametrize("rest", [b"2;x=", b"0\r\nX: "], ids=["size of a chunk", "trailer"])
def test_what_is_around_a_body_has_an_end(rest: bytes, served: ServedGateway) -> None:
    # The request waits for its body: nothing else is said.
    with closing(socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S)) as connection:
        connection.sendall(POST + CHUNKED + rest)
        with suppress(ConnectionError):
            connection.sendall(MUCH * 2)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_headers_and_bodies_that_fit(served: ServedGateway) -> None:
    head = GET + b"Connection: close\r\nX: "
    fits = head + MUCH[len(head) + 4 :] + b"\r\n\r\n"
    assert len(fits) == MOST_HEADER_BYTES
    assert say(served.port, fits).status_code == 200
    # Chunks of one byte are many more bytes than headers may have.
    body = json.dumps({"model": "none", "prompt": "a" * 20_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % each for each in body) + b"0\r\n\r\n"
    assert say(served.port, POST + b"Connection: close\r\n" + CHUNKED + chunks).status_code == 404
    assert served.client.post("/v1/completions", content=body * 40).status_code == 400


def test_body_that_was_refused_early_may_still_come_slowly() -> None:
    """Clients that send the whole body first are to read the answer, and not a reset."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n"
    with (
        serve_gateway(settings_of(), timeout_keep_alive=1) as served,
        closing(socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S)) as connection,
    ):
        connection.sendall(head)
        assert b" 404 " in connection.recv(65_536)
        for _ in range(40):
            connection.sendall(b"a")
            time.sleep(0.05)
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65_536)


# What a connection begins with, and what it sends again and again, which is no way to stay.
UNFINISHED = [
    (b"", b""),
    (b"", b"\r\n"),
    (GET, b"X: a\r\n"),
    (GET + b"X: ", b"a"),
    (GET + b"\r\n", b"\r\n"),
    (GET + b"\r\n" + GET, b"X: a\r\n"),
]


def test_connections_without_a_whole_request_end() -> None:
    with serve_gateway(settings_of(), timeout_keep_alive=1) as served, ExitStack() as opened:
        running = {}
        for begun, more in UNFINISHED:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            connection.sendall(begun)
            connection.settimeout(0.05)
            running[connection] = more
        for _ in range(200):
            running = {each: more for each, more in running.items() if goes_on(each, more)}
        assert list(running.values()) == []


def goes_on(connection: socket.socket, more: bytes) -> bool:
    """Send a little; tell whether the connection is still open."""
    try:
        connection.sendall(more)
        return bool(connection.recv(65_536))
    except TimeoutError:
        return True
    except ConnectionError:
        return False


@pytest.mark.parametrize(
    "handshake",
    [
        b"POST /v1/realtime HTTP/1.1\r\n" + UPGRADE + b"\r\n",
        b"GET /v1/realtime HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 2\r\n\r\n{}",
        b"GET /v1/realtime HTTP/1.1\r\n" + UPGRADE + b"X: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /v1/realtime HTTP/1.1\r\n" + UPGRADE + b"X: a\r\n" * 130 + b"\r\n",
    ],
    ids=["method", "body", "long", "many"],
)
def test_what_is_no_handshake_is_answered(handshake: bytes, served: ServedGateway) -> None:
    answer = say(served.port, handshake)
    assert (answer.status_code, answer.json()["type"]) == (400, "MalformedRequest")
    assert answer.json()["message"].startswith("Expected the handshake of a WebSocket: GET ")


@pytest.mark.parametrize("path", ["/nothing", "/livez", "/v1/audio/transcriptions", "/live/a/b"])
def test_websockets_at_unknown_addresses_are_told(
    path: str, served: ServedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{served.port}{path}")
    answer = caught.value.response
    assert answer.status_code == 404
    said = json.loads(bytes(answer.body))
    said = said.get("error", said)
    assert said["message"] == "Expected an existing address; /docs lists them."
    assert "x-request-id" in answer.headers
    # A refusal is no mistake of the gateway's: with the next answer, all of this one was done.
    assert served.client.get("/livez").status_code == 200
    assert caplog.records == []


ENCODED = {"Content-Encoding": "gzip"}
FORM = {"Content-Type": "multipart/form-data; boundary=X"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/completions", {}),
        ("/v1/audio/transcriptions", FORM),
        ("/v1/models/a:predict", {}),
        ("/v2/models/a/infer", {}),
    ],
)
def test_encoded_bodies_are_refused(
    path: str, headers: dict[str, str], served: ServedGateway
) -> None:
    answer = served.client.post(path, content=b"\x1f\x8b", headers=headers | ENCODED)
    assert answer.status_code == 415
    assert "Expected a body without Content-Encoding" in answer.text
    plain = {"Content-Encoding": "identity"}
    assert served.client.post(path, content=b"{}", headers=headers | plain).status_code == 400


def test_encoded_bodies_of_the_engine_s_own_addresses_go_through() -> None:
    def answer(headers: Any, body: bytes) -> bytes:
        return f"{headers['content-encoding']}".encode() + body

    with run_listener(answer) as address, serve_gateway(settings_of(address)) as served:
        found = served.client.post("/predictions/a", content=b"\x1f\x8b", headers=ENCODED)
    assert found.content == b"gzip\x1f\x8b"


def part(name: str, value: bytes, rest: str = "") -> bytes:
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + value


MODEL = part("model", "m\u00e9\r\n".encode())
RECORDING = part("file", b"RIFF\r\n", '; filename="a.wav"')
END = b"--X--\r\n"


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-7", "utf-8; charset=punycode"])
def test_form_in_another_charset_is_not_read(charset: str, served: ServedGateway) -> None:
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n"
    named = f"Content-Type: multipart/form-data; boundary=X; charset={charset}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S)) as connection:
        # Its body never comes.
        connection.sendall(head + named.encode())
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b'"code":"unsupported_media_type"' in answer


@pytest.mark.parametrize(
    "charset", ["", "; charset=utf-8", '; charset="UTF-8"', "; charset=iso-8859-1"]
)
def test_form_in_a_usual_charset_is_read(charset: str, served: ServedGateway) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=X{charset}"}
    form = MODEL + RECORDING + END
    answer = served.client.post("/v1/audio/transcriptions", content=form, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "form",
    [
        MODEL + RECORDING,
        (MODEL + RECORDING)[:-4],
        RECORDING + MODEL + part("language", b"en\r\n"),
        (MODEL + RECORDING + END)[:-4],
        b"",
    ],
)
def test_form_that_is_cut_off_is_malformed(form: bytes, served: ServedGateway) -> None:
    answer = served.client.post("/v1/audio/transcriptions", content=form, headers=FORM)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_request"
    assert "Its last boundary is missing." in answer.json()["error"]["message"]
