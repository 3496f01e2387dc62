"""The parts of live speech over WebSockets, each alone: audio, inbox, origins, events, turns."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import ConversationItemInputAudioTranscriptionSegment
from starlette.websockets import WebSocket

from cluster.local import LocalEngine
from gateway.encodings import Codec, Encoding
from gateway.engine import (
    EngineError,
    ModelNotFoundError,
    RequestTooLargeError,
    SessionGoneError,
    UnavailableError,
    WorkerDiedError,
)
from gateway.inbox import Inbox
from gateway.json_size import MOST_VALUES
from gateway.live import is_end
from gateway.openai.errors import code_of
from gateway.realtime.configuration import Configuration
from gateway.realtime.events import Append, ClientEventError, Update, parse_event
from gateway.realtime.session import Session
from gateway.realtime.turns import SILENCE, Turns
from gateway.sockets import MOST_WAITING_BYTES, close_code, is_own_origin, run_first


@pytest.mark.parametrize("codec", [Codec.MU_LAW, Codec.A_LAW])
def test_g711_is_expanded_as_ffmpeg_does(codec: Codec) -> None:
    codes = bytes(range(256))
    decoder = av.CodecContext.create(codec.value, "r")
    decoder.sample_rate, decoder.layout = 8_000, "mono"
    expected = np.concatenate([each.to_ndarray()[0] for each in decoder.decode(av.Packet(codes))])
    found = np.frombuffer(Encoding(codec, 8_000).expand(codes), "<i2")
    assert found.tolist() == expected.tolist()


def test_bytes_of_a_second() -> None:
    assert Encoding(Codec.PCM, 24_000).bytes_per_s == 48_000
    assert Encoding(Codec.PCM, 16_000, channels=2).bytes_per_s == 64_000
    assert Encoding(Codec.A_LAW, 8_000).bytes_per_s == 8_000


async def take_all(inbox: Inbox[str], least: int, most: int, frame: int = 1) -> list[bytes | str]:
    """Return all that can be taken without waiting."""
    found: list[bytes | str] = []
    while True:
        taking = asyncio.create_task(inbox.take(least, most, frame))
        await asyncio.sleep(0)
        if not taking.done():
            taking.cancel()
            return found
        found.append(taking.result())


def taken(inbox: Inbox[str], least: int, most: int) -> list[bytes | str]:
    return asyncio.run(take_all(inbox, least, most))


def test_audio_is_gathered_and_keeps_its_place_among_commands() -> None:
    async def run() -> None:
        inbox: Inbox[str] = Inbox(100)
        for piece in (b"ab", b"", b"cdefg"):
            inbox.put_audio(piece)
        inbox.put_command("commit", 10)
        inbox.put_command("update", 10)
        inbox.put_audio(b"hi")
        # What is left is less than the least; it waits for more.
        assert await take_all(inbox, 3, 5) == [b"abcde", b"fg", "commit", "update"]
        inbox.put_audio(b"j")
        assert await take_all(inbox, 3, 5) == [b"hij"]
        assert await take_all(inbox, 1, 5) == []

    asyncio.run(run())


def test_frames_are_whole_on_both_sides_of_a_command() -> None:
    async def run() -> None:
        inbox: Inbox[str] = Inbox(100)
        for piece in (b"abc", b"d", b"e", "commit", b"f", b"gh", "clear", "update", b"i", b"j"):
            if isinstance(piece, bytes):
                inbox.put_audio(piece)
            else:
                inbox.put_command(piece, 0)
        found = await take_all(inbox, 1, 3, 2)
        assert found == [b"ab", b"cd", "commit", b"ef", b"gh", "clear", "update", b"ij"]

    asyncio.run(run())


def test_only_audio_behind_the_last_command_is_dropped() -> None:
    inbox: Inbox[str] = Inbox(100)
    assert inbox.drop_audio() == 0
    inbox.put_audio(b"abc")
    inbox.put_command("commit", 1)
    assert inbox.drop_audio() == 0
    inbox.put_audio(b"defg")
    assert inbox.drop_audio() == 4
    assert taken(inbox, 1, 10) == [b"abc", "commit"]


@given(st.lists(st.binary(max_size=7) | st.just("commit")), st.integers(1, 5), st.integers(0, 5))
def test_nothing_is_lost_in_an_inbox(entries: list[bytes | str], least: int, further: int) -> None:
    inbox: Inbox[str] = Inbox(10)
    size = 0
    for each in entries:
        size += len(each)
        if isinstance(each, str):
            inbox.put_command(each, len(each))
        else:
            inbox.put_audio(each)
    assert inbox.is_full == (size > 10)
    inbox.put_command("end", 0)
    assert joined(taken(inbox, least, least + further)) == joined([*entries, "end"])
    assert not inbox.is_full


def joined(entries: list[bytes | str]) -> list[bytes | str]:
    """Return entries with neighbours of audio as one."""
    found: list[bytes | str] = []
    for each in entries:
        if found and isinstance(each, bytes) and isinstance(found[-1], bytes):
            found[-1] += each
        elif each:
            found.append(each)
    return found


def test_who_puts_too_much_waits_until_it_is_taken() -> None:
    async def run() -> None:
        inbox: Inbox[str] = Inbox(4)
        inbox.put_audio(b"abcdef")
        waiting = asyncio.create_task(inbox.wait_for_room())
        await inbox.take(1, 1)
        await asyncio.sleep(0)
        assert not waiting.done()
        await inbox.take(1, 1)
        await waiting

    asyncio.run(run())


def test_event_of_too_many_values_is_not_parsed() -> None:
    text = (
        '{"type": "session.update", "event_id": "\\"", "session": [' + "[]," * MOST_VALUES + "[]]}"
    )
    with pytest.raises(ClientEventError, match=f"at most {MOST_VALUES} values") as caught:
        parse_event(text)
    assert caught.value.code == "too_many_values"
    for encoding in ("utf-16", "utf-32-be"):
        # Read as UTF-8, what stands behind the quotation mark would be the inside of a string.
        with pytest.raises(ClientEventError) as caught:
            parse_event(text.encode(encoding))
        assert caught.value.code == "invalid_json"
    assert parse_event(b'\xef\xbb\xbf{"type": "input_audio_buffer.clear"}').event_id is None
    assert not is_end("[" * 1000 + "]" * 1000)
    assert is_end(' {"type" : "end"}\n')


@pytest.mark.parametrize("kind", ["session.update", "input_audio_buffer.clear"])
def test_client_that_reads_nothing_is_not_read(kind: str) -> None:
    event: dict[str, Any] = {"type": kind, "event_id": "e" * 500}
    if kind == "session.update":
        prompt = {"audio": {"input": {"transcription": {"prompt": "p" * 60_000}}}}
        event["session"] = {"type": "transcription", **prompt}
    text = json.dumps(event)
    taken = -1

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "websocket.receive" if taken else "websocket.connect", "text": text}

    async def send(message: Any) -> None:
        if "session.created" not in message.get("text", "session.created"):
            await asyncio.Event().wait()

    async def run() -> None:
        websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
        await websocket.accept()
        engine = LocalEngine({})
        with suppress(TimeoutError):
            await asyncio.wait_for(Session(engine, websocket, None).run(30), 1)
        await engine.aclose()

    asyncio.run(run())
    # What is taken, what waits for room, and the one that is read ahead.
    assert MOST_WAITING_BYTES < taken * len(text) <= MOST_WAITING_BYTES + 4 * len(text)


def test_first_of_two_works_ends_the_other() -> None:
    ended: list[str] = []

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("last")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise UnavailableError("Busy", "m")

    with pytest.raises(UnavailableError):
        asyncio.run(run_first(last(), fail()))
    assert ended == ["last"]


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "expected"),
    [
        (None, "a:8000", (), True),
        ("http://a:8000", "a:8000", (), True),
        ("https://a", "a:443", (), True),
        ("https://A", "a", (), True),
        ("http://[::1]:8000", "[::1]:8000", (), True),
        ("http://a:8001", "a:8000", (), False),
        ("http://b:8000", "a:8000", (), False),
        ("http://a.b", "a", (), False),
        ("null", "a", (), False),
        ("", "", (), False),
        ("http://b", "a", ("http://b",), True),
        ("http://b", "a", ("http://c",), False),
        ("http://b", "a", ("*",), True),
    ],
)
def test_pages_of_other_addresses(
    origin: str | None, host: str, allowed: tuple[str, ...], expected: bool
) -> None:
    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    scope = {"type": "websocket", "headers": headers}
    websocket = WebSocket(scope, receive=None, send=None)  # type: ignore[arg-type]
    assert is_own_origin(websocket, allowed) is expected


@pytest.mark.parametrize(
    ("error_class", "code"),
    [
        (UnavailableError, 1013),
        (SessionGoneError, 1011),
        (WorkerDiedError, 1011),
        (ModelNotFoundError, 1008),
        (RequestTooLargeError, 1008),
    ],
)
def test_code_says_whether_to_connect_again(error_class: type[EngineError], code: int) -> None:
    assert close_code(error_class("Kind", "m")) == code


def test_names_of_errors() -> None:
    assert code_of(UnavailableError("TooManySessions", "m")) == "too_many_sessions"


CANARY = "canary"


def update(**audio_input: Any) -> dict[str, Any]:
    """Return an event that asks for something."""
    session = {"type": "transcription", "audio": {"input": audio_input}}
    return {"type": "session.update", "session": session}


INPUT = "session.audio.input"


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ("{" + CANARY, "invalid_json", None),
        ("[" * 50_000, "invalid_json", None),
        ("[]", "invalid_type", None),
        ({}, "invalid_value", "type"),
        ({"type": CANARY}, "invalid_value", "type"),
        ({"type": ["input_audio_buffer.clear"]}, "invalid_value", "type"),
        ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
        ({"type": "input_audio_buffer.append", "audio": 1}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.clear", "mine": CANARY}, "unknown_parameter", "mine"),
        ({"type": "input_audio_buffer.clear", "event_id": 7}, "invalid_value", "event_id"),
        ({"type": "input_audio_buffer.clear", "\ud800": 7}, "invalid_value", None),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        (
            {"type": "session.update", "session": {"type": "realtime"}},
            "invalid_value",
            "session.type",
        ),
        (update(mine=CANARY), "unknown_parameter", f"{INPUT}.mine"),
        (update(format={"type": CANARY}), "invalid_value", f"{INPUT}.format.type"),
        (
            update(format={"type": "audio/pcm", "rate": 16_000}),
            "invalid_value",
            f"{INPUT}.format.rate",
        ),
        (
            update(format={"type": "audio/pcmu", "rate": 24_000}),
            "invalid_value",
            f"{INPUT}.format",
        ),
        (
            update(turn_detection={"type": "server_vad", "threshold": 2}),
            "invalid_value",
            f"{INPUT}.turn_detection.threshold",
        ),
        (
            update(turn_detection={"type": "semantic_vad"}),
            "invalid_value",
            f"{INPUT}.turn_detection.type",
        ),
        (
            update(noise_reduction={"type": "near_field"}),
            "invalid_value",
            f"{INPUT}.noise_reduction",
        ),
        (update(transcription=None), "invalid_value", f"{INPUT}.transcription"),
        (
            update(transcription={"keywords": [1]}),
            "invalid_value",
            f"{INPUT}.transcription.keywords.0",
        ),
    ],
)
def test_bad_events_name_their_field(event: Any, code: str, param: str | None) -> None:
    text = event if isinstance(event, str) else json.dumps(event)
    with pytest.raises(ClientEventError) as caught:
        parse_event(text)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert CANARY not in caught.value.message


def test_error_of_an_event_has_its_name() -> None:
    for name, expected in (("mine", "mine"), ("a" * 600, None)):
        with pytest.raises(ClientEventError) as caught:
            parse_event(json.dumps({"type": "nothing", "event_id": name}))
        assert caught.value.event_id == expected


@pytest.mark.parametrize("text", ["!", "YQ", "YWJ\u00e9", "YWJj\n"])
def test_audio_that_is_no_base64(text: str) -> None:
    event = parse_event(json.dumps({"type": "input_audio_buffer.append", "audio": text}))
    assert isinstance(event, Append)
    with pytest.raises(ClientEventError, match="base64"):
        event.decode()


def test_append_brings_its_bytes() -> None:
    audio = base64.b64encode(b"\x00\xff\x10").decode()
    event = parse_event(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    assert isinstance(event, Append)
    assert event.decode() == b"\x00\xff\x10"


def test_update_changes_what_it_names_alone() -> None:
    configuration = Configuration(model="mine", format="audio/pcmu", detects_turns=False)

    def after(**audio_input: Any) -> Configuration:
        event = parse_event(json.dumps(update(**audio_input)))
        assert isinstance(event, Update)
        return configuration.update(event.session)

    assert after() == configuration
    assert after(noise_reduction=None, transcription={"language": "en"}) == configuration
    assert after(format={"type": "audio/pcm"}) == Configuration("mine", "audio/pcm", False)
    assert after(transcription={"model": "other"}) == Configuration("other", "audio/pcmu", False)
    assert after(turn_detection={"type": "server_vad"}).detects_turns
    assert configuration.encoding == Encoding(Codec.MU_LAW, 8_000)


def test_configuration_tells_what_is_in_effect() -> None:
    heard = Configuration("mine").describe({"endpoint_silence_seconds": 0.8})["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert heard["transcription"]["model"] == "mine"
    assert heard["turn_detection"]["silence_duration_ms"] == 800
    heard = Configuration(format="audio/pcma", detects_turns=False).describe({})["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcma"}
    assert heard["turn_detection"] is None


def said(final: str = "", partial: str = "", start: float = 0.0, end: float = 0.0) -> Any:
    """Return what an engine says."""
    times = {"start": start, "end": end}
    words = [{"word": each, **times} for each in final.split()]
    return {"final": final, "partial": partial, "words": words, **times}


def short(events: Iterator[Any]) -> list[Any]:
    """Return the kinds of events, with their texts."""
    names = ("delta", "transcript", "audio_start_ms", "audio_end_ms")
    return [
        (each["type"].rpartition(".")[2], *(each[name] for name in names if name in each))
        for each in events
    ]


def test_turn_ends_with_a_final_text() -> None:
    turns = Turns()
    turns.position_s = 1.0
    turns.open()
    turns.position_s = 3.0
    assert short(turns.hear(said(), True)) == []
    assert short(turns.hear(said(partial="go", start=0.5), True)) == [
        ("speech_started", 1500),
        ("delta", "go"),
    ]
    assert turns.is_speaking
    # The next turn has begun, too; the next answer tells its times.
    assert short(turns.hear(said("go on", "and", end=1.5), True)) == [
        ("delta", " on"),
        ("speech_stopped", 2500),
        ("committed",),
        ("added",),
        ("completed", "go on"),
        ("done",),
    ]
    assert not turns.is_speaking
    assert short(turns.hear(said(partial="and", start=1.9), True)) == [
        ("speech_started", 2900),
        ("delta", "and"),
    ]


def test_item_goes_on_until_it_is_committed() -> None:
    turns = Turns()
    turns.position_s = 2.0
    assert short(turns.hear(said("go", "on", end=1.0), False)) == [("delta", "go on")]
    assert short(turns.hear(said("on", start=1.2, end=1.4), False)) == []
    (*_, completed, _) = turns.commit(said("now", start=1.6, end=1.8), False)
    assert completed["transcript"] == "go on now"
    assert [each["word"] for each in completed["words"]] == ["go", "on", "now"]
    assert completed["usage"] == {"type": "duration", "seconds": 2.0}
    turns.position_s = 2.5
    (committed, *_, completed, _) = turns.commit(SILENCE, False)
    assert committed["previous_item_id"] not in (None, committed["item_id"])
    assert (completed["transcript"], completed["usage"]["seconds"]) == ("", 0.5)


def test_speakers_are_told_in_segments_before_the_item_is_complete() -> None:
    turns = Turns()
    turns.position_s = 2.0
    turns.open()
    turns.position_s = 6.0
    words = [
        {"word": word, "start": start, "end": start + 0.3, "confidence": 1.0, "speaker": speaker}
        for word, start, speaker in (
            ("go", 0.1, "Speaker 2"),
            ("on", 0.5, "Speaker 2"),
            ("no", 1.0, "Speaker 1"),
        )
    ]
    events = list(turns.hear({**said("go on no", start=0.1, end=1.3), "words": words}, True))
    *_, completed, _ = events
    segments = [each for each in events if each["type"].endswith(".segment")]
    assert events.index(completed) > events.index(segments[-1])
    typed = [
        ConversationItemInputAudioTranscriptionSegment.model_validate(each) for each in segments
    ]
    assert [(each.speaker, each.text) for each in typed] == [("B", "go on"), ("A", "no")]
    assert [(each.start, each.end) for each in typed] == [(2.1, 2.8), (3.0, 3.3)]
    assert {each.item_id for each in typed} == {completed["item_id"]}
    assert len({each.id for each in typed}) == 2


def test_text_that_is_changed_is_told_once_it_has_grown() -> None:
    turns = Turns()
    assert short(turns.hear(said(partial="go on"), False)) == [("delta", "go on")]
    assert short(turns.hear(said(partial="gone"), False)) == []
    assert short(turns.hear(said(partial="go on now"), False)) == [("delta", " now")]


def test_lost_item_is_told_and_forgotten() -> None:
    turns = Turns()
    assert short(turns.fail({"code": "lost"})) == []
    list(turns.hear(said(partial="go"), True))
    (failed,) = turns.fail({"code": "lost"})
    assert failed["type"].endswith(".failed")
    assert failed["error"] == {"code": "lost"}
    assert not turns.is_speaking
