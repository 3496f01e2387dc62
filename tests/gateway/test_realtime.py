"""OpenAI's Realtime protocol, with the official client, before a real TorchServe."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_socket

from archives.configs import read_configs
from repository import ROOT
from serving.local import build_with_settings
from support.gateway import properties_of
from support.realtime import (
    LIVE_MODEL,
    TURN_ON,
    WEATHER,
    append,
    ask_whole,
    check,
    compress,
    configure,
    connect,
    cut,
    expand,
    of_kind,
    receive,
    receive_until,
    speech,
    transcripts,
)
from support.waiting import until
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer, run_server

SAID, ASKED = "turn on the kitchen lights", "what is the weather tomorrow"
BOTH = [SAID, ASKED]
CANARY = "canary"
PIECE_S = 0.1


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Return the last words of the types, neighbours that are alike as one."""
    found: list[str] = []
    for each in events:
        kind = each["type"].rpartition(".")[2]
        if found[-1:] != [kind]:
            found.append(kind)
    return found


def test_speech_at_its_pace(gateway_url: str, inference_url: str) -> None:
    """Text comes while somebody speaks, and each turn ends at a silence."""
    pcm = speech(24_000, TURN_ON, silence_s=1.2)

    async def speak() -> list[dict[str, Any]]:
        client = AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="none")
        asked = {"intent": "transcription"}
        async with client.realtime.connect(extra_query=asked) as connection:
            events = [check(await connection.recv_bytes())]

            async def send() -> None:
                for piece in cut(pcm, int(48_000 * PIECE_S)):
                    audio = base64.b64encode(piece).decode()
                    await connection.input_audio_buffer.append(audio=audio)
                    await asyncio.sleep(PIECE_S)

            sending = asyncio.create_task(send())
            while events[-1]["type"] != "conversation.item.done":
                events.append(check(await connection.recv_bytes()))
            # Text came before the last of the audio was sent.
            first = next(of_kind(events, ".delta"))
            assert first["delta"]
            await sending
        return events

    events = asyncio.run(speak())
    assert kinds(events) == [
        "created", "speech_started", "delta", "speech_stopped", "committed", "added", "completed",
        "done",
    ]  # fmt: skip
    assert transcripts(events) == [SAID] == [ask_whole(inference_url, pcm, 24_000)]
    assert len(list(of_kind(events, ".delta"))) > 2
    (item_id,) = {each["item_id"] for each in events if "item_id" in each}
    assert {each["item"]["id"] for each in events if "item" in each} == {item_id}
    completed = events[-2]
    assert [each["word"] for each in completed["words"]] == SAID.split()
    times = [time_s for each in completed["words"] for time_s in (each["start"], each["end"])]
    assert times == sorted(times)
    assert events[1]["audio_start_ms"] == round(times[0] * 1000)
    (stopped,) = of_kind(events, "speech_stopped")
    assert stopped["audio_end_ms"] == round(times[-1] * 1000)
    assert times[-1] < completed["usage"]["seconds"] <= len(pcm) / 48_000


@pytest.mark.parametrize("codec", ["", "pcm_mulaw", "pcm_alaw"])
def test_formats_of_audio_faster_than_it_is_spoken(
    gateway_url: str, inference_url: str, codec: str
) -> None:
    rate_hz = 8_000 if codec else 24_000
    pcm = speech(rate_hz, TURN_ON, WEATHER)
    audio = compress(pcm, codec) if codec else pcm
    heard = expand(audio, codec) if codec else pcm
    name = {"": "audio/pcm", "pcm_mulaw": "audio/pcmu", "pcm_alaw": "audio/pcma"}[codec]
    with connect(gateway_url) as connection:
        receive(connection)
        updated = configure(connection, format={"type": name})
        assert updated["type"] == "session.updated"
        assert updated["session"]["audio"]["input"]["format"]["type"] == name
        append(connection, audio)
        events = receive_until(connection, "item.done", 2)
    assert " ".join(transcripts(events)) == ask_whole(inference_url, heard, rate_hz)
    assert transcripts(events) == BOTH or codec
    first, second = of_kind(events, ".completed")
    committed = list(of_kind(events, ".committed"))
    assert [each["item_id"] for each in committed] == [first["item_id"], second["item_id"]]
    assert [each["previous_item_id"] for each in committed] == [None, first["item_id"]]
    # Times count from the beginning of the session.
    assert second["words"][0]["start"] > first["words"][-1]["end"] + 1


def test_items_end_where_they_are_committed(gateway_url: str) -> None:
    pcm = [speech(24_000, name, silence_s=0.2) for name in (TURN_ON, WEATHER)]
    with connect(gateway_url) as connection:
        receive(connection)
        updated = configure(connection, turn_detection=None)
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        for each in pcm:
            append(connection, each)
            connection.input_audio_buffer.commit()
        # A sentence, a silence and another one: one item.
        append(connection, speech(24_000, TURN_ON, WEATHER))
        connection.input_audio_buffer.commit()
        events = receive_until(connection, "item.done", 3)
        assert transcripts(events) == [*BOTH, " ".join(BOTH)]
        # Nothing is left to be committed.
        connection.input_audio_buffer.commit()
        refused = receive(connection)
    assert {"speech_started", "speech_stopped"}.isdisjoint(kinds(events))
    completed = list(of_kind(events, ".completed"))
    for audio, item in zip(pcm, completed, strict=False):
        assert item["usage"]["seconds"] == pytest.approx(len(audio) / 48_000, abs=0.001)
    assert completed[1]["words"][0]["start"] > len(pcm[0]) / 48_000
    assert refused["error"]["code"] == "input_audio_buffer_commit_empty"


def test_commit_ends_a_turn_early(gateway_url: str) -> None:
    with connect(gateway_url) as connection:
        receive(connection)
        append(connection, speech(24_000, TURN_ON, silence_s=0.1))
        connection.input_audio_buffer.commit()
        events = receive_until(connection, "item.done")
    assert transcripts(events) == [SAID]
    assert kinds(events)[-5:] == ["speech_stopped", "committed", "added", "completed", "done"]


def test_cleared_audio_is_forgotten(gateway_url: str) -> None:
    half, whole = speech(24_000, TURN_ON)[:40_000], speech(24_000, WEATHER)
    with connect(gateway_url) as connection:
        receive(connection)
        append(connection, half)
        receive_until(connection, ".delta")
        connection.input_audio_buffer.clear()
        receive_until(connection, ".cleared")
        connection.input_audio_buffer.commit()
        assert receive(connection)["error"]["code"] == "input_audio_buffer_commit_empty"
        append(connection, whole)
        events = receive_until(connection, "item.done")
    assert transcripts(events) == [ASKED]
    (completed,) = of_kind(events, ".completed")
    assert completed["words"][0]["start"] > len(half) / 48_000
    assert completed["usage"]["seconds"] <= len(whole) / 48_000


def test_largest_append(gateway_url: str) -> None:
    audio = "AAAA" * (15 * 1024 * 1024 // 4)
    with connect(gateway_url) as connection:
        receive(connection)
        connection.input_audio_buffer.append(audio=audio)
        connection.input_audio_buffer.clear()
        assert receive(connection)["type"] == "input_audio_buffer.cleared"
        append(connection, speech(24_000, TURN_ON))
        events = receive_until(connection, "item.done")
    assert transcripts(events) == [SAID]
    (completed,) = of_kind(events, ".completed")
    assert completed["words"][0]["start"] > len(audio) / 4 * 3 / 48_000


@pytest.mark.parametrize(
    ("message", "code", "param", "event_id"),
    [
        ("{", "invalid_json", None, None),
        (b"\x00\xff", "invalid_json", None, None),
        ('{"type": "response.create", "event_id": "a"}', "invalid_value", "type", "a"),
        (
            '{"type": "input_audio_buffer.append", "audio": "canary!", "event_id": "\\ud800"}',
            "invalid_value",
            "event_id",
            "\ud800",
        ),
        (
            '{"type": "input_audio_buffer.append", "audio": "canary!", "event_id": "b"}',
            "invalid_value",
            "audio",
            "b",
        ),
        ('{"type": "input_audio_buffer.append", "audio": []}', "invalid_value", "audio", None),
        (
            '{"type": "session.update", "session": {"type": "transcription", "canary": 1}}',
            "unknown_parameter",
            "session.canary",
            None,
        ),
    ],
)
def test_bad_events_keep_the_connection(
    gateway_url: str, message: str | bytes, code: str, param: str | None, event_id: str | None
) -> None:
    with connect(gateway_url) as connection:
        receive(connection)
        connection._connection.send(message)
        refused = receive(connection)
        assert refused["type"] == "error"
        error = refused["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert (error["param"], error["event_id"]) == (param, event_id)
        assert CANARY not in error["message"].replace("session.canary", "")
        assert configure(connection)["type"] == "session.updated"


def test_session_tells_what_is_in_effect(gateway_url: str) -> None:
    with connect(gateway_url, model=LIVE_MODEL) as connection:
        created = receive(connection)["session"]
        assert created["type"] == "transcription"
        heard = created["audio"]["input"]
        assert heard["format"] == {"type": "audio/pcm", "rate": 24_000}
        assert heard["transcription"]["model"] == LIVE_MODEL
        # The recogniser's own silence, endpoint_silence_s.
        assert heard["turn_detection"]["silence_duration_ms"] == 800
        asked = {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "noise_reduction": None,
            "transcription": {
                "model": LIVE_MODEL,
                "language": "en",
                "prompt": "lights",
                "keywords": ["kitchen"],
            },
            "turn_detection": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 300,
                "silence_duration_ms": 500,
            },
        }
        updated = configure(connection, **asked)
        assert updated["session"]["audio"] == created["audio"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("gpt-4o-transcribe", "model_not_found"), ("emformer_asr", "model_not_live")],
)
def test_models_that_are_not_live(gateway_url: str, name: str, code: str) -> None:
    with connect(gateway_url) as connection:
        receive(connection)
        error = configure(connection, transcription={"model": name})["error"]
        assert error["code"] == code
        assert error["param"] == "session.audio.input.transcription.model"
        heard = configure(connection)["session"]["audio"]["input"]
        assert heard["transcription"]["model"] == LIVE_MODEL
    with connect(gateway_url, model=name) as connection:
        assert receive(connection)["error"]["code"] == code
        # No code on which clients try again.
        assert closed(connection) == 1008


def closed(connection: Any) -> int:
    """Return the code with which a connection is closed, which is next."""
    with pytest.raises(ConnectionClosed) as caught:
        connection.recv_bytes()
    assert caught.value.rcvd
    return int(caught.value.rcvd.code)


@pytest.mark.parametrize("path", ["/v1/realtime", f"/live/{LIVE_MODEL}"])
def test_pages_of_other_addresses_are_refused(gateway_url: str, path: str) -> None:
    address = gateway_url.replace("http", "ws", 1) + path
    with pytest.raises(InvalidStatus) as caught:
        connect_socket(address, origin="http://elsewhere.example")  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403
    body = json.loads(caught.value.response.body or b"")
    assert (body["code"], body["type"]) == (403, "ForbiddenOrigin")
    connect_socket(address, origin=gateway_url).close()  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/realtime", f"/live/{LIVE_MODEL}"])
def test_browsers_name_the_protocol(path: str, gateway_url: str) -> None:
    address = gateway_url.replace("http", "ws", 1) + path
    offered: Any = ["realtime", "openai-insecure-api-key.none"]
    with connect_socket(address, subprotocols=offered) as websocket:
        # A browser goes where none of those that it offered is chosen.
        assert websocket.subprotocol == "realtime"


def test_log_has_no_queries(gateway: RunningGateway) -> None:
    with connect(gateway.url, mine=CANARY) as connection:
        receive(connection)
    until(lambda: "WEBSOCKET /v1/realtime 101" in gateway.log())
    assert CANARY not in gateway.log()


def test_sessions_have_their_limits_and_hear_of_a_shutdown(
    server: TrialServer, tmp_path: Path
) -> None:
    settings = {"max_sessions": 1, "session_idle_timeout_s": 0.5}
    with run_gateway(tmp_path, server.properties, **settings) as gateway:
        with connect(gateway.url) as connection:
            receive(connection)
            with connect(gateway.url) as one_more:
                assert receive(one_more)["error"]["code"] == "too_many_sessions"
                assert closed(one_more) == 1013
            error = receive(connection)["error"]
            assert error["code"] == "session_idle_timeout"
            assert error["type"] == "invalid_request_error"
            assert closed(connection) == 1000
        live = gateway.url.replace("http", "ws", 1) + f"/live/{LIVE_MODEL}"
        with connect_socket(live) as silent:
            error = json.loads(silent.recv(30))["error"]
            assert (error["code"], error["type"]) == (408, "SessionIdleTimeout")
        with connect(gateway.url) as connection:
            receive(connection)
            gateway.process.terminate()
            assert closed(connection) == 1012


def test_which_of_several_models(inference_url: str, tmp_path: Path) -> None:
    """Without a name there is a choice only where the settings make it."""
    properties = {"inference_address": inference_url, "disable_token_authorization": "true"}
    models = {LIVE_MODEL: "live_speech", "another": "live_speech"}
    settings = {"torchserve": {"management_address": None}, "models": models}
    pcm = speech(24_000, TURN_ON)
    running = run_gateway(tmp_path / "none", properties, **settings)
    with running as gateway, connect(gateway.url) as connection:
        heard = receive(connection)["session"]["audio"]["input"]
        assert heard["transcription"]["model"] is None
        append(connection, pcm[:9_600])
        refused = receive(connection)["error"]
        assert refused["code"] == "missing_required_parameter"
        assert refused["param"] == "session.audio.input.transcription.model"
        configure(connection, transcription={"model": LIVE_MODEL})
        append(connection, pcm)
        assert transcripts(receive_until(connection, "item.done")) == [SAID]
    settings["live_model"] = LIVE_MODEL
    running = run_gateway(tmp_path / "one", properties, **settings)
    with running as gateway, connect(gateway.url) as connection:
        heard = receive(connection)["session"]["audio"]["input"]
        assert heard["transcription"]["model"] == LIVE_MODEL


def test_engine_that_is_not_there(tmp_path: Path) -> None:
    running = run_gateway(tmp_path, properties_of("http://127.0.0.1:9"))
    with running as gateway, connect(gateway.url) as connection:
        error = receive(connection)["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_unreachable")
        assert closed(connection) == 1013


def vanish(connection: Any) -> None:
    """Cut a connection without a word."""
    connection._connection.socket.shutdown(socket.SHUT_RDWR)


def test_clients_that_vanish_leave_no_session_of_the_engine(gateway: RunningGateway) -> None:
    """The model has room for eight at a time."""
    for _ in range(2):
        managers = [connect(gateway.url) for _ in range(8)]
        connections = [each.enter() for each in managers]
        for each in connections:
            receive(each)
            append(each, speech(24_000, TURN_ON, silence_s=0))
            receive_until(each, ".delta")
        ended = gateway.log().count("/v1/realtime 101")
        for each in connections:
            vanish(each)
        until(lambda: gateway.log().count("/v1/realtime 101") == ended + 8)  # noqa: B023
    for trace in ("Traceback", "Task", "exception"):
        assert trace not in gateway.log()


def test_who_sends_faster_than_is_recognised_has_to_wait(
    server: TrialServer, gateway: RunningGateway
) -> None:
    """A worker that stands still: what is sent stays with the client."""
    worker = server.workers()[LIVE_MODEL]
    piece = json.dumps(
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(48_000)).decode()}
    )
    sent_bytes = 0

    def send(websocket: Any) -> None:
        nonlocal sent_bytes
        with suppress(ConnectionClosed):
            while True:
                websocket.send(piece)
                sent_bytes += len(piece)

    before = gateway.process.memory_info().rss
    worker.suspend()
    try:
        address = gateway.url.replace("http", "ws", 1) + "/v1/realtime"
        with connect_socket(address, ping_interval=None) as websocket:
            sending = Thread(target=send, args=(websocket,))
            sending.start()
            until_still(lambda: sent_bytes)
            assert gateway.process.memory_info().rss - before < 30_000_000
            worker.resume()
            waited = sent_bytes
            until(lambda: sent_bytes > waited + 1_000_000)
            websocket.close()
            sending.join()
    finally:
        worker.resume()
    assert gateway.process.memory_info().rss - before < 30_000_000


def until_still(measure: Callable[[], int]) -> None:
    """Return once a number that has grown does not for a while."""
    last, since_s = 0, time.monotonic()
    while last == 0 or time.monotonic() - since_s < 0.5:
        if (now := measure()) != last:
            last, since_s = now, time.monotonic()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a server whose sessions are few, short, and forgotten soon."""
    config = read_configs()[LIVE_MODEL]
    archive = build_with_settings(
        config,
        ROOT / config.source,
        tmp_path_factory.mktemp("narrow"),
        {"sequenceMaxIdleMSec": 900},
        max_sessions=1,
        max_audio_seconds=8,
    )
    with run_server(archives=[archive], store=archive.parent) as running:
        yield running


@pytest.fixture(scope="module")
def narrow_gateway(
    narrow_server: TrialServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Return a gateway before that server."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), narrow_server.properties) as running:
        yield running


def test_session_is_longer_than_the_engine_allows(narrow_gateway: RunningGateway) -> None:
    pcm = speech(24_000, *[TURN_ON, WEATHER] * 3)
    assert len(pcm) / 48_000 > 16
    with connect(narrow_gateway.url) as connection:
        receive(connection)
        append(connection, pcm)
        events = receive_until(connection, "item.done", 6)
    assert transcripts(events) == BOTH * 3
    starts = [each["words"][0]["start"] for each in of_kind(events, ".completed")]
    step_s = len(pcm) / 48_000 / 3
    assert starts == [
        pytest.approx(starts[index % 2] + index // 2 * step_s, abs=0.2) for index in range(6)
    ]


def test_engine_does_not_forget_who_is_silent(narrow_gateway: RunningGateway) -> None:
    pcm = speech(24_000, TURN_ON)
    with connect(narrow_gateway.url) as connection:
        receive(connection)
        append(connection, pcm[:40_001])
        events = receive_until(connection, ".delta")
        # Longer than the engine keeps a silent session.
        time.sleep(2)
        append(connection, pcm[40_001:])
        events += receive_until(connection, "item.done")
    assert transcripts(events) == [SAID]


def test_engine_that_never_answers(narrow_server: TrialServer, tmp_path: Path) -> None:
    """TorchServe loses what it holds for a batch while its worker ends; docs/troubleshooting.md."""
    pcm = speech(24_000, TURN_ON, silence_s=0)
    worker = narrow_server.workers()[LIVE_MODEL]
    with run_gateway(tmp_path, narrow_server.properties, session_answer_timeout_s=0.5) as gateway:
        with connect(gateway.url) as connection:
            receive(connection)
            append(connection, pcm)
            receive_until(connection, ".delta")
            worker.suspend()
            try:
                append(connection, pcm)
                events = receive_until(connection, "error")
            finally:
                worker.resume()
            assert kinds(events)[-2:] == ["failed", "error"]
            assert [each["error"]["code"] for each in events[-2:]] == ["engine_timeout"] * 2
            assert "within 0.5 s" in events[-1]["error"]["message"]
            assert closed(connection) == 1011
        # Longer than the engine keeps a silent session.
        time.sleep(2)
        with connect(gateway.url) as connection:
            receive(connection)
            append(connection, speech(24_000, TURN_ON))
            assert transcripts(receive_until(connection, "item.done")) == [SAID]


def test_engine_that_is_full_or_dies(
    narrow_gateway: RunningGateway, narrow_server: TrialServer
) -> None:
    pcm = speech(24_000, TURN_ON, silence_s=0)
    with connect(narrow_gateway.url) as connection:
        receive(connection)
        append(connection, pcm)
        receive_until(connection, ".delta")
        with connect(narrow_gateway.url) as one_more:
            receive(one_more)
            # The refusal may come before all is sent.
            with suppress(ConnectionClosed):
                append(one_more, pcm)
            assert receive(one_more)["error"]["code"] == "too_many_sessions"
            assert closed(one_more) == 1013
        narrow_server.workers()[LIVE_MODEL].kill()
        append(connection, pcm)
        events = receive_until(connection, "error")
        assert [each["error"]["type"] for each in events[-2:]] == ["server_error"] * 2
        assert kinds(events)[-2:] == ["failed", "error"]
        assert closed(connection) in (1011, 1013)
    until(lambda: LIVE_MODEL in narrow_server.workers())
    with connect(narrow_gateway.url) as connection:
        receive(connection)
        append(connection, speech(24_000, TURN_ON))
        assert transcripts(receive_until(connection, "item.done")) == [SAID]
