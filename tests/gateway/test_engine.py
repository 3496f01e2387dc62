"""The TorchServe engine before a real TorchServe: answers, models, live speech, connections."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import soundfile

from gateway.contract.descriptions import read_description
from gateway.contract.engine import ContractEngine
from gateway.contract.errors import read_error
from gateway.engine import (
    AudioFormat,
    Description,
    EngineError,
    EngineTimeoutError,
    ImpossibleRequestError,
    InternalError,
    Kind,
    MalformedRequestError,
    Model,
    ModelNotFoundError,
    Request,
    SessionGoneError,
    UnavailableError,
    UnsupportedMediaError,
    WorkerDiedError,
)
from gateway.settings import Settings, parse_settings
from gateway.sockets import find_live_model
from gateway.torchserve.engine import TorchServeEngine
from support.common import EXAMPLES
from support.gateway import properties_of, run_relay, run_silent_server
from trials.gateways import run_gateway
from trials.servers import TrialServer

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
REVIEW = Request((EXAMPLES / "review_accepted.txt").read_bytes(), "text/plain")
SAID = "turn on the kitchen lights"
Act = Callable[[TorchServeEngine], Coroutine[Any, Any, Any]]


def act(settings: Settings, do: Act) -> Any:
    """Return what comes of an engine of its own in an event loop of its own."""

    async def run() -> Any:
        engine = TorchServeEngine(settings)
        try:
            return await do(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


def at(address: str, **changes: Any) -> Settings:
    """Return settings for an engine at an address."""
    return parse_settings(
        {"torchserve": {"inference_address": address, "management_address": address, **changes}}
    )


def test_answers_and_explanations(engine_settings: Settings) -> None:
    async def ask(engine: TorchServeEngine) -> None:
        answer = await engine.answer("bert_seq_classification", REVIEW)
        assert (answer.status, answer.body) == (200, b"Accepted")
        asked = Request(SPEECH, "audio/wav", "text/vtt", {"X-Other": "1"})
        answer = await engine.answer("wav2vec2", asked, "1.0")
        assert answer.media_type == "text/vtt"
        assert answer.body.startswith(b"WEBVTT")
        answer = await engine.explain("bert_seq_classification", REVIEW)
        assert "importances" in json.loads(answer.body)

    act(engine_settings, ask)


async def ask_by(name: str, model: str, request: Request, engine: TorchServeEngine) -> Any:
    return await getattr(engine, name)(model, request)


@pytest.mark.parametrize(
    ("model", "request_", "expected", "kind"),
    [
        ("whisper", REVIEW, ModelNotFoundError, "ModelNotFound"),
        ("a name/with?signs", REVIEW, ModelNotFoundError, "ModelNotFound"),
        ("wav2vec2", Request(b"noise"), UnsupportedMediaError, "UnsupportedAudio"),
        ("wav2vec2", Request(b""), MalformedRequestError, "MissingPayload"),
        (
            "bert_seq_classification",
            Request(b'{"inputs": "a", "parameters": {"no": 1}}', "application/json"),
            ImpossibleRequestError,
            "InvalidParameter",
        ),
    ],
)
def test_errors_are_typed_by_what_the_engine_says(
    engine_settings: Settings,
    model: str,
    request_: Request,
    expected: type[EngineError],
    kind: str,
) -> None:
    for name in ("answer", "stream"):
        with pytest.raises(EngineError) as caught:
            act(engine_settings, partial(ask_by, name, model, request_))
        assert type(caught.value) is expected
        assert caught.value.kind == kind
        assert caught.value.message


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected", "retry_after_s"),
    [
        (503, b'{"type": "InternalError", "message": "m"}', {}, InternalError, None),
        (503, b'{"type": "TooManySessions"}', {"retry-after": "7"}, UnavailableError, 7),
        (503, b'{"type": "ServiceUnavailableException"}', {}, UnavailableError, 1),
        (507, b'{"type": "InternalServerException"}', {}, WorkerDiedError, None),
        (410, b'{"type": "SessionGone"}', {}, SessionGoneError, None),
        (500, b"<html>", {}, InternalError, None),
        (418, b"[1]", {}, InternalError, None),
    ],
)
def test_errors_of_torchserve_and_of_handlers_that_share_a_status(
    status: int,
    body: bytes,
    headers: dict[str, str],
    expected: type[EngineError],
    retry_after_s: float | None,
) -> None:
    error = read_error(status, headers, body)
    assert type(error) is expected
    assert error.retry_after_s == retry_after_s


def test_models_say_what_they_are(engine_settings: Settings) -> None:
    found = act(engine_settings, lambda engine: engine.models())
    assert {each.name: each.kind for each in found} == {
        "bert_question_answering": Kind.QUESTION_ANSWERING,
        "bert_seq_classification": Kind.SEQUENCE_CLASSIFICATION,
        "bert_token_classification": Kind.TOKEN_CLASSIFICATION,
        "emformer_asr": Kind.SPEECH_RECOGNITION,
        "emformer_asr_live": Kind.LIVE_SPEECH,
        "gpt2_text_generation": Kind.TEXT_GENERATION,
        "wav2vec2": Kind.SPEECH_RECOGNITION,
    }
    models = {each.name: each for each in found}
    for each in found:
        assert each.ready
        assert [(one.version, one.ready) for one in each.versions] == [("1.0", True)]
        assert each.about.explainable == (each.name != "emformer_asr_live")
    assert models["bert_seq_classification"].about.labels == ("Not Accepted", "Accepted")
    assert models["emformer_asr"].about.streams == ("application/x-ndjson",)
    assert models["wav2vec2"].about.streams == ("application/x-ndjson",)
    assert models["gpt2_text_generation"].about.streams == ("text/event-stream",)
    assert models["wav2vec2"].about.decoder == "greedy"
    assert models["wav2vec2"].about.sample_rate_hz == 16_000
    assert models["emformer_asr_live"].about.limits["max_sessions"] == 8


def test_models_are_asked_once_while_many_want_to_know(
    server: TrialServer, engine_settings: Settings
) -> None:
    described = describes(server)

    async def ask(engine: TorchServeEngine) -> None:
        await asyncio.gather(*(engine.model("wav2vec2") for _ in range(20)))
        await engine.models()
        with pytest.raises(ModelNotFoundError):
            await engine.model("whisper")

    act(engine_settings, ask)
    assert describes(server) - described == 7


def test_known_model_is_told_while_models_cannot_be_looked_up(
    server: TrialServer, engine_settings: Settings
) -> None:
    async def ask() -> tuple[Any, Any]:
        management = urlsplit(server.properties["management_address"])
        with run_relay(management.port or 0) as relay:
            addresses = at(f"http://127.0.0.1:{relay.port}").torchserve
            settings = replace(engine_settings, torchserve=addresses, models_refresh_s=1e-6)
            engine = TorchServeEngine(settings)
            known = await engine.model("wav2vec2")
        told = await engine.model("wav2vec2")
        with pytest.raises(UnavailableError):
            await engine.models()
        await engine.aclose()
        return known, told

    known, told = asyncio.run(ask())
    assert known == told


def describes(server: TrialServer) -> int:
    log = (server.folder / "logs" / "torchserve.log").read_text(encoding="utf-8")
    return log.count("?customized=true HTTP/1.1")


def test_models_describe_themselves_between_requests_of_a_batch(engine_settings: Settings) -> None:
    """A question what a model is comes among requests, and none gets the answer of another."""
    once_each = replace(engine_settings, models_refresh_s=1e-6)

    async def ask(engine: TorchServeEngine) -> tuple[list[Any], list[Any]]:
        texts = asyncio.gather(
            *(engine.answer("bert_seq_classification", REVIEW) for _ in range(40))
        )
        fresh = [TorchServeEngine(once_each) for _ in range(5)]
        models = await asyncio.gather(*(each.model("bert_seq_classification") for each in fresh))
        for each in fresh:
            await each.aclose()
        return await texts, models

    texts, models = act(once_each, ask)
    assert {each.body for each in texts} == {b"Accepted"}
    assert {each.kind for each in models} == {Kind.SEQUENCE_CLASSIFICATION}


def test_models_of_an_engine_that_cannot_be_asked_are_those_of_the_settings(
    inference_url: str,
) -> None:
    settings = parse_settings(
        {
            "torchserve": {"inference_address": inference_url, "management_address": None},
            "models": {"wav2vec2": "speech_recognition"},
        }
    )
    (model,) = act(settings, lambda engine: engine.models())
    assert (model.name, model.kind, model.ready) == ("wav2vec2", Kind.SPEECH_RECOGNITION, True)
    down = replace(settings, torchserve=at("http://127.0.0.1:9").torchserve)
    down = replace(down, torchserve=replace(down.torchserve, management_address=None))
    (model,) = act(down, lambda engine: engine.models())
    assert not model.ready


def test_descriptions_of_strange_handlers_say_nothing() -> None:
    strange: list[Any] = [None, "text", [], {"kind": "cooking"}, {"labels": ["a"]}]
    for said in strange:
        assert read_description(said).kind is None
    about = read_description({"kind": "text_generation", "streams": ["a"], "from": "tomorrow"})
    assert (about.kind, about.streams) == (Kind.TEXT_GENERATION, ("a",))


def test_live_session_says_what_the_whole_recording_says(engine_settings: Settings) -> None:
    samples, rate_hz = soundfile.read(
        EXAMPLES / "turn_on_the_kitchen_lights.wav", dtype="int16", always_2d=True
    )
    pcm = samples.tobytes()

    async def speak(engine: TorchServeEngine) -> tuple[dict[str, Any], bytes]:
        session = await engine.open_live("emformer_asr_live", AudioFormat(rate_hz))
        for start in range(0, len(pcm), 5001):
            said = await session.send(pcm[start : start + 5001])
            assert said["partial"] or said["duration"] < 1
        said = await session.send(b"", last=True)
        await session.close()
        with pytest.raises(SessionGoneError):
            await session.send(b"")
        whole = await engine.answer("emformer_asr", Request(SPEECH, "audio/wav"))
        return said, whole.body

    said, whole = act(engine_settings, speak)
    assert said["text"].encode() == whole == SAID.encode()


def test_sessions_that_are_closed_make_room_for_others(engine_settings: Settings) -> None:
    """The model has room for eight at a time."""

    async def come_and_go(engine: TorchServeEngine) -> None:
        for _ in range(2):
            sessions = [
                await engine.open_live("emformer_asr_live", AudioFormat(16_000)) for _ in range(8)
            ]
            for each in sessions:
                await each.send(bytes(320))
            one_more = await engine.open_live("emformer_asr_live", AudioFormat(16_000))
            with pytest.raises(UnavailableError) as caught:
                await one_more.send(bytes(320))
            assert caught.value.kind == "TooManySessions"
            for each in sessions:
                await each.close()

    act(engine_settings, come_and_go)


def test_live_session_of_another_model_says_so(engine_settings: Settings) -> None:
    async def speak(engine: TorchServeEngine) -> None:
        session = await engine.open_live("emformer_asr", AudioFormat(16_000))
        await session.send(bytes(3200))

    with pytest.raises(InternalError, match="live speech"):
        act(engine_settings, speak)


def test_connections_are_used_again(server: TrialServer) -> None:
    with run_relay(server.address[1]) as relay:
        settings = at(f"http://127.0.0.1:{relay.port}")

        async def ask(engine: TorchServeEngine) -> None:
            for _ in range(10):
                await engine.answer("bert_seq_classification", REVIEW)
                async with await engine.stream("emformer_asr", Request(SPEECH)) as answer:
                    assert b"".join([part async for part in answer]) == SAID.encode()

        act(settings, ask)
        assert relay.made == 1


def test_cancelled_request_closes_its_connection(server: TrialServer) -> None:
    """What is wanted no more is not waited for: the engine sees its client go."""
    with run_relay(server.address[1]) as relay:
        settings = at(f"http://127.0.0.1:{relay.port}")
        text = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 100}, "stream": True}
        story = Request(json.dumps(text).encode(), "application/json")

        async def leave(engine: TorchServeEngine) -> None:
            asked = asyncio.create_task(engine.answer("gpt2_text_generation", story))
            await until(lambda: relay.open == 1)
            asked.cancel()
            await until(lambda: relay.open == 0)
            async with await engine.stream("gpt2_text_generation", story) as answer:
                await anext(aiter(answer))
                assert relay.open == 1
            await until(lambda: relay.open == 0)

        act(settings, leave)


async def until(holds: Callable[[], bool]) -> None:
    """Return when something is so; fail when it never is."""
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


def test_engine_that_is_down_and_one_that_is_silent() -> None:
    with pytest.raises(UnavailableError) as down:
        act(at("http://127.0.0.1:9"), lambda engine: engine.answer("a", REVIEW))
    assert (down.value.kind, down.value.retry_after_s) == ("EngineUnreachable", 5)
    with run_silent_server() as silent:
        settings = at(f"http://127.0.0.1:{silent.getsockname()[1]}", answer_timeout_s=0.2)
        with pytest.raises(EngineTimeoutError):
            act(settings, lambda engine: engine.answer("a", REVIEW))


def test_engine_that_breaks_off_in_the_middle() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    with run_silent_server() as server:
        settings = at(f"http://127.0.0.1:{server.getsockname()[1]}")

        def break_off() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head)

        async def ask(engine: TorchServeEngine) -> None:
            asked = asyncio.create_task(engine.answer("a", REVIEW))
            await asyncio.to_thread(break_off)
            with pytest.raises(UnavailableError) as caught:
                await asked
            assert caught.value.kind == "EngineLost"

        act(settings, ask)


def test_engine_that_is_down_gives_503_and_one_that_is_silent_504(tmp_path: Path) -> None:
    with run_silent_server() as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        timeouts = {"answer_timeout_s": 0.3}
        with run_gateway(tmp_path, properties_of(address), torchserve=timeouts) as gateway:
            late = httpx2.post(f"{gateway.url}/predictions/a", content=b"b")
            assert (late.status_code, late.json()["type"]) == (504, "EngineTimeout")
            silent.close()
            down = httpx2.post(f"{gateway.url}/predictions/a", content=b"b")
            assert (down.status_code, down.json()["type"]) == (503, "EngineUnreachable")
            assert down.headers["retry-after"] == "5"
            assert httpx2.get(f"{gateway.url}/ping").status_code == 503


def test_client_that_vanishes_ends_the_request_to_the_engine(tmp_path: Path) -> None:
    story = json.dumps(
        {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 100}, "stream": True}
    ).encode()
    with (
        run_silent_server() as silent,
        run_gateway(
            tmp_path,
            properties_of(f"http://127.0.0.1:{silent.getsockname()[1]}"),
            torchserve={"answer_timeout_s": 100},
        ) as gateway,
    ):
        silent.settimeout(30)
        for upload in (len(story), len(story) + 1000):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                head = (
                    f"POST /predictions/a HTTP/1.1\r\nHost: a\r\nContent-Length: {upload}\r\n\r\n"
                )
                client.sendall(head.encode() + story)
                upstream, _ = silent.accept()
                upstream.settimeout(30)
                received = b""
                while not received.endswith(story):
                    part = upstream.recv(65536)
                    assert part
                    received += part
            # In the middle of its answer, and in the middle of its upload.
            with upstream:
                assert upstream.recv(65536) == b""


@pytest.mark.parametrize(("ready", "kind"), [(False, "NotReady"), (True, "ModelNotLive")])
def test_model_that_is_still_loaded_may_be_live_speech_later(ready: bool, kind: str) -> None:
    class Loading(ContractEngine):
        def __init__(self) -> None:
            """Know one model, and reach none."""

        async def model(self, name: str) -> Model:
            return Model(name, (), "", ready, Description())

    engine = Loading()
    with pytest.raises(EngineError) as refusal:
        asyncio.run(find_live_model(engine, "emformer_asr_live"))
    assert refusal.value.kind == kind
