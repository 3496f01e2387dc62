"""What tests of live speech over WebSockets share: speech in any format, and what is said of it."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import av
import httpx2
import numpy as np
import soundfile
from openai import OpenAI
from openai.resources.realtime.realtime import RealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from speechtext.speech.frames import Samples
from speechtext.speech.resampling import Resampler
from support.common import EXAMPLES

TURN_ON = "turn_on_the_kitchen_lights.wav"
WEATHER = "what_is_the_weather_tomorrow.wav"
LIVE_MODEL = "emformer_asr_live"
EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
TIMEOUT_S = 60.0
Event = dict[str, Any]


def speech(rate_hz: int, *names: str, silence_s: float = 1.5) -> bytes:
    """Return recordings as samples of 16 bits, with a silence behind each."""
    parts: list[Samples] = []
    for name in names:
        samples, from_hz = soundfile.read(EXAMPLES / name, dtype="float32")
        resampler = Resampler(from_hz, rate_hz)
        parts += [
            resampler.push(samples),
            resampler.end(),
            np.zeros(int(silence_s * rate_hz), np.float32),
        ]
    samples = np.concatenate(parts)
    return bytes((samples * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes())


def compress(pcm: bytes, codec: str) -> bytes:
    """Return samples at 8 kHz as G.711."""
    encoder = cast(av.AudioCodecContext, av.CodecContext.create(codec, "w"))
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[None], "s16", "mono")
    frame.sample_rate = 8_000
    return b"".join(bytes(each) for each in (*encoder.encode(frame), *encoder.encode(None)))


def expand(audio: bytes, codec: str) -> bytes:
    """Return G.711 as samples of 16 bits."""
    decoder = cast(av.AudioCodecContext, av.CodecContext.create(codec, "r"))
    decoder.sample_rate, decoder.layout = 8_000, "mono"
    frames = decoder.decode(av.Packet(audio))
    return b"".join(each.to_ndarray().astype("<i2").tobytes() for each in frames)


def ask_whole(inference_url: str, pcm: bytes, rate_hz: int) -> str:
    """Return what the model of recordings says of all of it in one request."""
    content_type = f"audio/L16; rate={rate_hz}; endianness=little-endian"
    answer = httpx2.post(
        f"{inference_url}/predictions/emformer_asr",
        content=pcm,
        headers={"content-type": content_type},
        timeout=60,
    )
    return answer.raise_for_status().text


def cut(audio: bytes, size: int) -> list[bytes]:
    """Return audio in pieces of so many bytes."""
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def openai_client(gateway_url: str) -> OpenAI:
    return OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0)


def connect(gateway_url: str, **query: str) -> Any:
    """Return a connection of the official client, to use in a `with` statement."""
    asked = {"intent": "transcription", **query}
    return openai_client(gateway_url).realtime.connect(extra_query=asked)


def receive(connection: RealtimeConnection) -> Event:
    """Return the next event, which is one that the official client knows, whole."""
    # Its own method waits for ever.
    return check(connection._connection.recv(TIMEOUT_S, decode=False))


def check(data: bytes) -> Event:
    """Return an event, which is one that the official client knows, whole."""
    event: Event = json.loads(data)
    known = EVENTS.validate_python(event)
    assert known.type == event["type"]
    assert event["event_id"]
    return event


def receive_until(connection: RealtimeConnection, kind: str, count: int = 1) -> list[Event]:
    """Return the events up to the last of so many of a kind."""
    events: list[Event] = []
    while sum(each["type"].endswith(kind) for each in events) < count:
        events.append(receive(connection))
    return events


def append(connection: RealtimeConnection, audio: bytes, size: int = 4_801) -> None:
    """Append audio in pieces that are cut anywhere."""
    for piece in cut(audio, size):
        connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


def configure(connection: RealtimeConnection, **audio_input: Any) -> Event:
    """Ask for something; return the event that answers."""
    session: Any = {"type": "transcription", "audio": {"input": audio_input}}
    connection.session.update(session=session)
    return receive(connection)


def of_kind(events: Sequence[Event], kind: str) -> Iterator[Event]:
    """Yield the events whose type ends in a word."""
    return (each for each in events if each["type"].endswith(kind))


def transcripts(events: Sequence[Event]) -> list[str]:
    """Return the texts of items; their deltas, joined, are the same."""
    found = []
    for each in of_kind(events, ".completed"):
        deltas = (one for one in of_kind(events, ".delta") if one["item_id"] == each["item_id"])
        assert "".join(one["delta"] for one in deltas) == each["transcript"]
        found.append(each["transcript"])
    return found
