"""Transcripts by OpenAI's protocol, asked by its official client: the engine's text and times."""

import asyncio
import io
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import av
import httpx2
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

from serving.configuration import free_port
from support.common import EXAMPLES
from support.gateway import properties_of, run_relay
from support.recordings import RATE_HZ, join_examples, write_wav
from support.waiting import until
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer

MODELS = ["wav2vec2", "emformer_asr"]
SPOKEN = EXAMPLES / "turn_on_the_kitchen_lights.wav"
ANY_SPEECH = ("speech.wav", SPOKEN.read_bytes())


LONG = ("long.wav", join_examples())


def encode(container: str, codec: str) -> bytes:
    """Return the example in a container of FFmpeg's."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=48_000)
        with av.open(str(SPOKEN)) as recording:
            resampler = av.AudioResampler("fltp", "mono", 48_000)
            for frame in recording.decode(audio=0):
                for each in resampler.resample(frame):
                    output.mux(stream.encode(each))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="module")
def engine_answer(inference_url: str) -> Callable[[str, bytes, str], Any]:
    """Return a function to the engine's own answer to a recording."""

    def ask(model: str, recording: bytes, accept: str) -> Any:
        headers = {"Accept": accept, "Content-Type": "application/octet-stream"}
        url = f"{inference_url}/predictions/{model}"
        reply = httpx2.post(url, content=recording, headers=headers, timeout=120)
        assert reply.status_code == 200
        return reply.json() if accept == "application/json" else reply.text

    return ask


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recording", [ANY_SPEECH, LONG], ids=["short", "long"])
def test_words_times_and_segments_are_those_of_the_engine(
    model: str,
    recording: tuple[str, bytes],
    openai_client: OpenAI,
    engine_answer: Callable[[str, bytes, str], Any],
) -> None:
    engine = engine_answer(model, recording[1], "application/json")
    found = openai_client.audio.transcriptions.create(
        model=model,
        file=recording,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
    )
    TranscriptionVerbose.model_validate(found.model_dump(), strict=True)
    assert (found.text, found.duration) == (engine["text"], engine["duration"])
    assert found.usage is not None
    assert found.usage.seconds == engine["duration"]
    words = [
        {"word": each.word, "start": each.start, "end": each.end} for each in found.words or ()
    ]
    assert words == [
        {name: each[name] for name in ("word", "start", "end")} for each in engine["words"]
    ]
    segments = found.segments or []
    assert " ".join(each.text for each in segments) == engine["text"]
    assert [each.id for each in segments] == list(range(len(segments)))
    if model == "emformer_asr":
        # Each example is followed by a pause.
        assert len(segments) == (1 if recording is ANY_SPEECH else 8)
    starts = {each["start"] for each in engine["words"]}
    assert {each.start for each in segments} <= starts
    first = [each for each in engine["words"] if each["end"] <= segments[0].end]
    mean = sum(math.log(each["confidence"]) for each in first) / len(first)
    assert segments[0].avg_logprob == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_text_and_subtitles_are_those_of_the_engine(
    model: str, openai_client: OpenAI, engine_answer: Callable[[str, bytes, str], Any]
) -> None:
    media_types: dict[Literal["text", "srt", "vtt"], str] = {
        "text": "text/plain",
        "srt": "application/x-subrip",
        "vtt": "text/vtt",
    }
    recording = LONG if model == "emformer_asr" else ANY_SPEECH
    for name, media_type in media_types.items():
        found: Any = openai_client.audio.transcriptions.create(
            model=model,
            file=recording,
            response_format=name,
        )
        assert found == engine_answer(model, recording[1], media_type)
        assert found


def test_granularities_choose_what_is_told(openai_client: OpenAI) -> None:
    def ask(**options: Any) -> tuple[bool, bool]:
        found: Any = openai_client.audio.transcriptions.create(
            model="wav2vec2", file=ANY_SPEECH, response_format="verbose_json", **options
        )
        return bool(found.words), bool(found.segments)

    assert ask() == (False, True)
    assert ask(timestamp_granularities=["segment"]) == (False, True)
    assert ask(timestamp_granularities=["word"]) == (True, False)


@pytest.mark.parametrize("model", MODELS)
def test_json_has_text_usage_and_logprobs_where_wanted(
    model: str, openai_client: OpenAI, engine_answer: Callable[[str, bytes, str], Any]
) -> None:
    engine = engine_answer(model, SPOKEN.read_bytes(), "application/json")
    plain = openai_client.audio.transcriptions.create(model=model, file=ANY_SPEECH)
    scored = openai_client.audio.transcriptions.create(
        model=model,
        file=ANY_SPEECH,
        include=["logprobs"],
        temperature=0,
        chunking_strategy="auto",
        languages=["en"],
    )
    Transcription.model_validate(plain.model_dump(), strict=True)
    assert plain.text == scored.text == engine["text"]
    assert plain.logprobs is None
    assert plain.usage is not None
    assert plain.usage.model_dump() == {"seconds": engine["duration"], "type": "duration"}
    tokens = scored.logprobs or []
    assert "".join(each.token or "" for each in tokens) == engine["text"]
    for token, word in zip(tokens, engine["words"], strict=True):
        assert math.exp(token.logprob or 0) == pytest.approx(word["confidence"], abs=1e-4)
        assert bytes(map(int, token.bytes or ())) == (token.token or "").encode()


@pytest.mark.parametrize("model", MODELS)
def test_stream_grows_to_the_whole_text(
    model: str, openai_client: OpenAI, engine_answer: Callable[[str, bytes, str], Any]
) -> None:
    events = list(
        openai_client.audio.transcriptions.create(
            model=model, file=LONG, stream=True, include=["logprobs"]
        )
    )
    done = events.pop()
    assert isinstance(done, TranscriptionTextDoneEvent)
    TranscriptionTextDoneEvent.model_validate(done.model_dump(), strict=True)
    told = []
    for each in events:
        assert isinstance(each, TranscriptionTextDeltaEvent)
        TranscriptionTextDeltaEvent.model_validate(each.model_dump(), strict=True)
        told.append(each.delta)
        assert "".join(token.token or "" for token in each.logprobs or ()) == each.delta
    engine = engine_answer(model, LONG[1], "application/json")
    assert "".join(told) == done.text == engine["text"]
    assert "".join(token.token or "" for token in done.logprobs or ()) == done.text
    if model == "emformer_asr":
        assert len(events) == 8


def test_stream_ends_as_openai_ends_it_and_comes_in_parts(gateway_url: str) -> None:
    url = f"{gateway_url}/v1/audio/transcriptions"
    form = {"model": "emformer_asr", "stream": "true"}
    with httpx2.stream("POST", url, data=form, files={"file": LONG}, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = list(response.iter_raw())
    assert len(parts) > 4
    events = b"".join(parts).decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    kinds = [json.loads(each.removeprefix("data: "))["type"] for each in events[:-1]]
    assert kinds == ["transcript.text.delta"] * 8 + ["transcript.text.done"]


def test_stream_of_silence_has_its_end_alone(openai_client: OpenAI) -> None:
    silence = write_wav(np.zeros(2 * RATE_HZ, np.int16))
    for model in MODELS:
        (done,) = openai_client.audio.transcriptions.create(
            model=model, file=("silence.wav", silence), stream=True
        )
        assert isinstance(done, TranscriptionTextDoneEvent)
        assert done.text == ""
        verbose = openai_client.audio.transcriptions.create(
            model=model, file=("silence.wav", silence), response_format="verbose_json"
        )
        assert (verbose.text, verbose.segments) == ("", [])


@pytest.mark.parametrize(
    ("container", "codec", "suffix"),
    [("ipod", "aac", "m4a"), ("webm", "libopus", "webm"), ("mp3", "libmp3lame", "mp3")],
)
def test_containers_that_clients_record_in(
    container: str, codec: str, suffix: str, openai_client: OpenAI
) -> None:
    file = (f"speech.{suffix}", encode(container, codec))
    found = openai_client.audio.transcriptions.create(model="emformer_asr", file=file)
    assert found.text == "turn on the kitchen lights"


def test_async_client(gateway_url: str) -> None:
    async def ask() -> tuple[str, list[Any]]:
        async with AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="none") as client:
            whole = await client.audio.transcriptions.create(model="emformer_asr", file=ANY_SPEECH)
            stream = await client.audio.transcriptions.create(
                model="emformer_asr", file=ANY_SPEECH, stream=True
            )
            return whole.text, [each async for each in stream]

    text, events = asyncio.run(ask())
    assert text == events[0].delta == events[1].text == "turn on the kitchen lights"


def test_names_of_fields_with_and_without_brackets(gateway_url: str) -> None:
    for name in ("timestamp_granularities", "timestamp_granularities[]"):
        form = {"model": "wav2vec2", "response_format": "verbose_json", name: ["word", "segment"]}
        reply = httpx2.post(
            f"{gateway_url}/v1/audio/transcriptions", data=form, files={"file": ANY_SPEECH}
        )
        assert len(reply.json()["words"]) == 5
        assert len(reply.json()["segments"]) == 1


REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str]] = [
    ({"model": "whisper-1"}, openai.NotFoundError, "model", "model_not_found"),
    (
        {"model": "bert_seq_classification"},
        openai.UnprocessableEntityError,
        "model",
        "invalid_parameter",
    ),
    ({"model": "emformer_asr_live"}, openai.UnprocessableEntityError, "model", "invalid_parameter"),
    ({"file": ("a.wav", b"no audio")}, openai.APIStatusError, "file", "unsupported_audio"),
    ({"file": ("a.wav", b"")}, openai.BadRequestError, "file", "empty_audio"),
    *(
        (options, openai.UnprocessableEntityError, next(iter(options)), "invalid_parameter")
        for options in (
            {"response_format": "xml"},
            {"include": ["logprobs"], "response_format": "diarized_json"},
            {"temperature": 0.4},
            {"chunking_strategy": {"type": "server_vad", "threshold": 0.5}},
            {"timestamp_granularities": ["word"]},
            {"include": ["logprobs"], "response_format": "verbose_json"},
            {"response_format": "verbose_json", "stream": True},
        )
    ),
    (
        {"extra_body": {"num_speakers": 0}},
        openai.UnprocessableEntityError,
        "num_speakers",
        "invalid_parameter",
    ),
    (
        {"extra_body": {"vad_filter": True}},
        openai.UnprocessableEntityError,
        "vad_filter",
        "invalid_parameter",
    ),
]


@pytest.mark.parametrize(
    ("options", "error_class", "param", "code"),
    REFUSED,
    ids=[f"{each[3]}-{each[2]}-{number}" for number, each in enumerate(REFUSED)],
)
def test_what_cannot_be_is_refused_by_its_field(
    options: dict[str, Any],
    error_class: type[openai.APIStatusError],
    param: str,
    code: str,
    openai_client: OpenAI,
) -> None:
    with pytest.raises(error_class) as caught:
        openai_client.audio.transcriptions.create(
            **({"model": "wav2vec2", "file": ANY_SPEECH} | options)
        )
    body: Any = caught.value.body
    assert (body["param"], body["code"], body["type"]) == (param, code, "invalid_request_error")
    assert body["message"].endswith(".")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"keywords": ["kitchen lights"]}, "keywords", "hotwords_unsupported"),
        ({"prompt": "Two names: Zaphod, Trillian."}, "prompt", "hotwords_unsupported"),
        ({"keywords": ["light"] * 101}, "keywords", "invalid_parameter"),
        ({"language": "de"}, "language", "invalid_parameter"),
        ({"languages": ["de", "fr"]}, "languages", "invalid_parameter"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    options: dict[str, Any], param: str, code: str, openai_client: OpenAI
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            openai_client.audio.transcriptions.create(
                model="emformer_asr", file=ANY_SPEECH, stream=stream, **options
            )
        assert (caught.value.param, caught.value.code) == (param, code)


def test_language_is_told_and_its_region_does_not_matter(openai_client: OpenAI) -> None:
    for language in ("en", "EN", "en-GB", "en_US"):
        found = openai_client.audio.transcriptions.create(
            model="wav2vec2",
            file=ANY_SPEECH,
            response_format="verbose_json",
            language=language,
            prompt=" ",
        )
        assert found.language == "en"


def test_forms_without_their_fields(gateway_url: str) -> None:
    url = f"{gateway_url}/v1/audio/transcriptions"
    for reply, param in (
        (httpx2.post(url, files={"file": ANY_SPEECH}), "model"),
        (httpx2.post(url, data={"model": "wav2vec2"}), "file"),
        (httpx2.post(url, data={"model": "wav2vec2", "file": "text"}), "file"),
        (httpx2.post(url, json={"model": "wav2vec2"}), "file"),
        (httpx2.post(url, content=b"x", headers={"Content-Type": "multipart/form-data"}), None),
    ):
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param


def test_errors_have_the_shape_at_every_address_of_openai(gateway_url: str) -> None:
    for method, path, status in (
        ("GET", "/v1/audio/transcriptions", 405),
        ("POST", "/v1/audio/speech", 404),
        ("GET", "/v1/models/none", 404),
    ):
        reply = httpx2.request(method, f"{gateway_url}{path}")
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.headers.get("allow") == ("POST" if status == 405 else None)
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_too_long_upload_is_refused_and_nothing_stays(server: TrialServer, tmp_path: Path) -> None:
    with run_gateway(tmp_path, server.properties, max_body_bytes=3_000_000) as gateway:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=2) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                client.audio.transcriptions.create(
                    model="wav2vec2", file=("a.wav", bytes(3_000_001))
                )
            # 2 MB, which waited in a file.
            silence = write_wav(np.zeros(1_000_000, np.int16))
            for stream in (False, True):
                client.audio.transcriptions.create(
                    model="emformer_asr", file=("a.wav", silence), stream=stream
                )
        assert caught.value.status_code == 413
        until(lambda: " 413 " in gateway.log())
        assert gateway.log().count(" 413 ") == 1
        assert open_uploads(gateway) == []


def open_uploads(gateway: RunningGateway) -> list[str]:
    """Return the temporary files that a gateway has open; they have no name any more."""
    folder = Path(f"/proc/{gateway.record.pid}/fd")
    targets = []
    for each in folder.iterdir():
        # It may be closed at this moment.
        with suppress(FileNotFoundError):
            targets.append(str(each.readlink()))
    return [each for each in targets if "(deleted)" in each and "/tmp" in each]  # noqa: S108


def test_large_upload_takes_no_memory_of_the_gateway(server: TrialServer, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).bytes(16_000_000)
    with run_gateway(tmp_path, server.properties) as gateway:
        url = f"{gateway.url}/v1/audio/transcriptions"
        httpx2.get(f"{gateway.url}/v1/models", timeout=60)
        before = gateway.process.memory_info().rss
        reply = httpx2.post(
            url, data={"model": "wav2vec2"}, files={"file": ("a.wav", noise)}, timeout=120
        )
        assert reply.status_code == 415
        peak = peak_memory(gateway)
    assert peak - before < 8_000_000


def peak_memory(gateway: RunningGateway) -> int:
    """Return the most memory that a gateway ever had, in bytes."""
    status = Path(f"/proc/{gateway.record.pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_lost_engine_ends_a_stream_with_an_error(server: TrialServer, tmp_path: Path) -> None:
    port = int(server.properties["inference_address"].rpartition(":")[2])
    recording = ("long.wav", join_examples(times=6))
    with run_relay(port) as relay:
        properties = dict(server.properties)
        properties["inference_address"] = f"http://127.0.0.1:{relay.port}"
        with (
            run_gateway(tmp_path, properties) as gateway,
            OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client,
        ):
            events = iter(
                client.audio.transcriptions.create(
                    model="emformer_asr", file=recording, stream=True
                )
            )
            first = next(events)
            relay.cut()
            with pytest.raises(openai.APIError) as caught:
                list(events)
    assert isinstance(first, TranscriptionTextDeltaEvent)
    assert caught.value.code == "engine_lost"
    assert caught.value.type == "server_error"


def test_engine_that_is_not_there_is_worth_another_try(tmp_path: Path) -> None:
    with (
        run_gateway(tmp_path, properties_of(f"http://127.0.0.1:{free_port()}")) as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.audio.transcriptions.create(model="wav2vec2", file=ANY_SPEECH)
    assert (caught.value.code, caught.value.type) == ("engine_unreachable", "server_error")
    assert caught.value.response.headers["x-should-retry"] == "true"
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_content_is_in_no_log(gateway: RunningGateway) -> None:
    canary = "zxqv-canary"
    url = f"{gateway.url}/v1/audio/transcriptions"
    for form in ({"model": canary}, {"model": "wav2vec2", "prompt": canary, canary: canary}):
        reply = httpx2.post(url, data=form, files={"file": (canary, canary.encode())})
        assert reply.status_code in (404, 422)
        assert reply.json()["error"]["message"].count(canary) == 0
    assert canary not in gateway.log()
