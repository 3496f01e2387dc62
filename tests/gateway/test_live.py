"""Live speech as samples in and JSON out, before a real TorchServe."""

import json
from contextlib import closing, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_socket

from support.realtime import (
    LIVE_MODEL,
    TIMEOUT_S,
    TURN_ON,
    WEATHER,
    ask_whole,
    compress,
    cut,
    speech,
)

SAID, ASKED = "turn on the kitchen lights", "what is the weather tomorrow"
END = json.dumps({"type": "end"})


def connect(gateway_url: str, model: str = LIVE_MODEL, query: str = "") -> ClientConnection:
    address = gateway_url.replace("http", "ws", 1)
    return connect_socket(f"{address}/live/{model}{query}")


def receive(websocket: ClientConnection) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(websocket.recv(TIMEOUT_S))
    return answer


def receive_all(websocket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Return the messages until the end, and the code that ends them."""
    found = []
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            found.append(receive(websocket))
    assert caught.value.rcvd
    return found, caught.value.rcvd.code


def test_text_comes_while_somebody_speaks(gateway_url: str, inference_url: str) -> None:
    pcm = speech(16_000, TURN_ON, WEATHER)
    with closing(connect(gateway_url)) as websocket:
        # Cut anywhere, and each piece only once the one before it is answered.
        said = []
        for piece in cut(pcm, 9_999):
            websocket.send(piece)
            said.append(receive(websocket))
        websocket.send(END)
        rest, code = receive_all(websocket)
    assert code == 1000
    *before, last = [*said, *rest]
    assert set(before[0]) == {"session", "partial", "final", "start", "end", "words", "duration"}
    assert [each["final"] for each in before if each["final"]] == [SAID, ASKED]
    assert any(each["partial"] and SAID.startswith(each["partial"]) for each in before)
    durations = [each["duration"] for each in before]
    assert durations == sorted(durations)
    assert last["duration"] == pytest.approx(len(pcm) / 32_000, abs=0.001)
    assert last["text"] == f"{SAID} {ASKED}" == ask_whole(inference_url, pcm, 16_000)
    assert "text" not in before[-1]


@pytest.mark.parametrize(
    ("rate_hz", "query"),
    [(8_000, "?rate=8000"), (8_000, "?rate=8000&encoding=pcm_mulaw"), (24_000, "?rate=24000")],
)
def test_other_audio_sent_at_once(gateway_url: str, rate_hz: int, query: str) -> None:
    pcm = speech(rate_hz, TURN_ON)
    with closing(connect(gateway_url, query=query)) as websocket:
        websocket.send(compress(pcm, "pcm_mulaw") if "mulaw" in query else pcm)
        websocket.send(END)
        answers, code = receive_all(websocket)
    assert (answers[-1]["text"], code) == (SAID, 1000)


def test_channels_are_averaged(gateway_url: str) -> None:
    mono = speech(16_000, TURN_ON)
    stereo = b"".join(sample * 2 for sample in cut(mono, 2))
    with closing(connect(gateway_url, query="?channels=2")) as websocket:
        websocket.send(stereo)
        websocket.send(END)
        answers, _ = receive_all(websocket)
    assert answers[-1]["text"] == SAID
    assert answers[-1]["duration"] == pytest.approx(len(mono) / 32_000, abs=0.001)


def test_nobody_spoke(gateway_url: str) -> None:
    with closing(connect(gateway_url)) as websocket:
        websocket.send(b"")
        websocket.send(END)
        answers, code = receive_all(websocket)
    assert [each["text"] for each in answers] == [""]
    assert code == 1000


@pytest.mark.parametrize(
    ("model", "query", "message", "status", "kind"),
    [
        ("whisper", "", b"\0\0", 404, "ModelNotFound"),
        ("wav2vec2", "", b"\0\0", 422, "ModelNotLive"),
        (LIVE_MODEL, "?rate=0", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "?rate=canary", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "?channels=9", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "?encoding=canary", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "?sample_rate=8000", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "?rate=8000&canary=1", b"\0\0", 422, "InvalidParameter"),
        (LIVE_MODEL, "", "canary", 400, "InvalidMessage"),
        (LIVE_MODEL, "", "[" * 100_000, 400, "InvalidMessage"),
    ],
)
def test_mistakes_are_told_and_end_the_session(
    gateway_url: str, model: str, query: str, message: str | bytes, status: int, kind: str
) -> None:
    with closing(connect(gateway_url, model, query)) as websocket:
        with suppress(ConnectionClosed):
            websocket.send(message)
        (answer,), code = receive_all(websocket)
    assert (answer["error"]["code"], answer["error"]["type"]) == (status, kind)
    assert "canary" not in answer["error"]["message"]
    # No code on which clients try again.
    assert code == 1008
