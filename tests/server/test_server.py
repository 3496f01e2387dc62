"""Real requests to a real TorchServe."""

import base64
import io
import itertools
import json
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

import live_client
from support.common import EXAMPLES

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
REVIEW = (EXAMPLES / "review_accepted.txt").read_bytes()
BAD_REVIEW = (EXAMPLES / "review_not_accepted.txt").read_bytes()
QUESTION = (EXAMPLES / "question.json").read_bytes()
ENTITIES = (EXAMPLES / "entities.txt").read_bytes()
PROMPT = (EXAMPLES / "prompt.txt").read_bytes()
RATE_HZ = 16_000
TEXT, JSON, AUDIO = "text/plain", "application/json", "audio/wav"


class Reply(NamedTuple):
    """A status, a content type and a body."""

    status: int
    content_type: str | None
    body: bytes


def post(url: str, body: bytes, content_type: str, **headers: str) -> Reply:
    headers = {"Content-Type": content_type, **headers}
    response = httpx2.post(url, content=body, headers=headers, timeout=120)
    return Reply(response.status_code, response.headers.get("content-type"), response.content)


class Case(NamedTuple):
    """A request and what it must get: a status, and an answer that matches a pattern as a whole."""

    path: str
    body: bytes
    content_type: str
    status: int
    pattern: str


def has(word: str) -> str:
    """Return the pattern of JSON in which a word stands."""
    return f'.*"{word}".*'


CASES = [
    Case("predictions/wav2vec2", SPEECH, AUDIO, 200, "TURN ON THE KITCHEN LIGHTS"),
    Case("predictions/emformer_asr", SPEECH, AUDIO, 200, "turn on the kitchen lights"),
    Case("predictions/bert_seq_classification", REVIEW, TEXT, 200, "Accepted"),
    Case("predictions/bert_seq_classification", BAD_REVIEW, TEXT, 200, "Not Accepted"),
    Case("predictions/bert_question_answering", QUESTION, JSON, 200, "Maria Rossi"),
    Case("predictions/bert_token_classification", ENTITIES, TEXT, 200, r'.*"Mar",\s*"B-PER".*'),
    Case("predictions/gpt2_text_generation", PROMPT, TEXT, 200, f"{PROMPT.decode().strip()}.+"),
    Case("explanations/bert_seq_classification", REVIEW, TEXT, 200, has("importances")),
    Case("explanations/bert_question_answering", QUESTION, JSON, 200, has("delta_end")),
    Case("predictions/wav2vec2", b"no audio at all", AUDIO, 415, has("UnsupportedAudio")),
    Case("predictions/wav2vec2", SPEECH[:30], AUDIO, 415, has("UnsupportedAudio")),
    Case("predictions/emformer_asr", b"{}", JSON, 400, has("MissingPayload")),
    Case("explanations/emformer_asr", SPEECH, AUDIO, 200, has("alternatives")),
    Case("predictions/bert_seq_classification", b'{"txt": 1}', JSON, 400, has("MissingField")),
    Case("predictions/bert_seq_classification", b'{"text": ', JSON, 400, has("MalformedJson")),
    Case("predictions/bert_question_answering", REVIEW, TEXT, 400, has("MissingField")),
    Case(
        "predictions/bert_token_classification",
        b"\xff\xfe",
        "text/csv",
        400,
        has("InvalidEncoding"),
    ),
    Case("explanations/bert_token_classification", ENTITIES, TEXT, 200, has("entities")),
    Case("explanations/gpt2_text_generation", PROMPT, TEXT, 200, has("generated")),
    Case("predictions/gpt2_text_generation", b"[1]", JSON, 400, has("UnexpectedJson")),
    Case("predictions/whisper", SPEECH, AUDIO, 404, has("ModelNotFoundException")),
]
LIVE = "predictions/emformer_asr_live"
SEQUENCE = "ts_request_sequence"


def check(case: Case, reply: Reply) -> None:
    text = reply.body.decode()
    assert reply.status == case.status, text
    assert re.fullmatch(case.pattern, text, re.DOTALL), text
    if case.status != 200:
        assert json.loads(text)["code"] == case.status
        assert reply.content_type is not None
        assert reply.content_type.startswith("application/json")


def ask(inference_url: str, case: Case) -> Reply:
    return post(f"{inference_url}/{case.path}", case.body, case.content_type)


def check_all(inference_url: str, cases: list[Case]) -> None:
    """Ask all at once, each from a connection of its own."""
    with ThreadPoolExecutor(len(cases)) as pool:
        replies = pool.map(lambda case: ask(inference_url, case), cases)
        for case, reply in zip(cases, replies, strict=True):
            check(case, reply)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.path}")
def test_each_request_gets_its_answer(inference_url: str, case: Case) -> None:
    check(case, ask(inference_url, case))


def test_twenty_and_more_requests_at_once_get_their_answers(inference_url: str) -> None:
    assert len(CASES) > 20
    check_all(inference_url, CASES)


def test_burst_of_one_kind_is_answered_in_batches(inference_url: str) -> None:
    """Enough requests for full batches, every third of them broken."""
    good, broken = CASES[2], CASES[13]
    check_all(inference_url, [broken if n % 3 == 2 else good for n in range(48)])


def say(url: str, name: str, pieces: Sequence[bytes], content_type: str = AUDIO) -> Any:
    """Send pieces as one live session; return the last answer."""
    for number, piece in enumerate(pieces):
        headers = {f"{SEQUENCE}_id": name}
        if number == 0:
            headers[f"{SEQUENCE}_start"] = "true"
        if number == len(pieces) - 1:
            headers[f"{SEQUENCE}_end"] = "true"
        reply = post(url, piece, content_type, **headers)
        assert reply.status == 200, reply.body
    return json.loads(reply.body)


def test_live_sessions_at_once(inference_url: str) -> None:
    """Twice as many as a worker holds, one after the other in each of eight connections."""
    url = f"{inference_url}/{LIVE}"
    samples, rate_hz = soundfile.read(io.BytesIO(SPEECH), dtype="int16")
    bare = samples.astype(">i2").tobytes()
    content_type = f"audio/L16; rate={rate_hz}"

    def speak(number: int) -> list[Any]:
        size = 1_001 + 2_000 * number
        pieces = [SPEECH[start : start + size] for start in range(0, len(SPEECH), size)]
        said = say(url, f"speaker {number}", pieces)
        pieces = [bare[start : start + size] for start in range(0, len(bare), size)]
        return [said, say(url, f"speaker {number}", pieces, content_type)]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(speak, range(8)):
            for answer in answers:
                assert answer["text"] == answer["final"] == "turn on the kitchen lights"


def test_live_session_without_an_id_gets_one(inference_url: str) -> None:
    url = f"{inference_url}/{LIVE}"
    opened = json.loads(post(url, SPEECH[:20_000], AUDIO).body)
    assert opened["partial"].startswith("turn on")
    headers = {f"{SEQUENCE}_id": opened["session"], f"{SEQUENCE}_end": "true"}
    assert json.loads(post(url, SPEECH[20_000:], AUDIO, **headers).body)["text"].endswith("lights")


def test_live_sessions_are_limited_and_free_their_places(inference_url: str) -> None:
    url = f"{inference_url}/{LIVE}"

    def send(name: str, flag: str, piece: bytes = b"") -> Reply:
        return post(url, piece, AUDIO, **{f"{SEQUENCE}_id": name, f"{SEQUENCE}_{flag}": "true"})

    for _ in range(2):
        for number in range(8):
            assert send(f"waiting {number}", "start", SPEECH[:99]).status == 200
        refused = send("one too many", "start", SPEECH)
        assert refused.status == 503
        assert b"at most 8 open sessions" in refused.body
        for number in range(8):
            assert send(f"waiting {number}", "end").status == 200
    capital = {"Ts_request_sequence_id": "a", "Ts_request_sequence_start": "true"}
    assert b"Expected the header ts_request_sequence" in post(url, SPEECH, AUDIO, **capital).body
    # Places are not lost to requests that have no session, either.
    for number in range(40):
        assert send(f"unknown {number}", "end", SPEECH).status == 410
    assert say(url, "after all", [SPEECH])["text"] == "turn on the kitchen lights"


def test_live_client_streams_a_file(inference_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{inference_url}/{LIVE}"
    for name in ("turn_on_the_kitchen_lights", "turn_on_the_kitchen_lights_stereo_44100_hz"):
        assert live_client.main([str(EXAMPLES / f"{name}.wav"), "--url", url, "--speed", "4"]) == 0
        assert capsys.readouterr().out.strip().endswith("s  turn on the kitchen lights")
    assert live_client.main([str(EXAMPLES / "prompt.txt"), "--url", url]) == 1
    assert "cannot be read as a recording" in capsys.readouterr().err
    speech = str(EXAMPLES / "turn_on_the_kitchen_lights.wav")
    assert live_client.main([speech, "--url", f"{inference_url}/predictions/wav2vec2"]) == 1
    assert "error: " in capsys.readouterr().err


def encode(samples: np.ndarray, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def three_days_of_flac() -> bytes:
    """Return a small file whose header claims three days: 36 bits of samples at byte 21."""
    flac = encode(np.zeros(RATE_HZ), RATE_HZ, "FLAC")
    claimed = int.from_bytes(flac[21:26], "big") >> 36 << 36 | 3 * 24 * 3600 * RATE_HZ
    return flac[:21] + claimed.to_bytes(5, "big") + flac[26:]


@pytest.mark.parametrize(
    ("recording", "status", "pattern"),
    [
        (encode(np.zeros(RATE_HZ), RATE_HZ, "WAV"), 200, ""),
        (b"", 400, has("MissingPayload")),
        (encode(np.zeros(0), RATE_HZ, "WAV"), 400, has("EmptyAudio")),
        (encode(np.full(999, np.nan), RATE_HZ, "WAV", "FLOAT"), 400, has("InvalidAudio")),
        (three_days_of_flac(), 413, has("AudioTooLong")),
        (encode(np.zeros(RATE_HZ), 100, "WAV"), 422, has("UnsupportedRate")),
    ],
    ids=["silence", "empty", "no-samples", "nan", "three-days", "slow"],
)
def test_recordings_without_speech(
    inference_url: str, recording: bytes, status: int, pattern: str
) -> None:
    check_all(inference_url, [Case("predictions/wav2vec2", recording, AUDIO, status, pattern)])


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz", "channels"),
    [
        ("WAV", "PCM_U8", 22_050, 1),
        ("WAV", "ULAW", 8_000, 2),
        ("WAV", "PCM_24", 192_000, 8),
        ("WAV", "FLOAT", 44_100, 2),
        ("FLAC", None, 48_000, 1),
        ("OGG", "VORBIS", 32_000, 1),
        ("OGG", "OPUS", 48_000, 2),
        ("MP3", None, 44_100, 2),
        ("AIFF", "PCM_32", 96_000, 1),
    ],
)
def test_speech_in_every_container(
    inference_url: str, container: str, subtype: str | None, rate_hz: int, channels: int
) -> None:
    samples, from_hz = soundfile.read(io.BytesIO(SPEECH), dtype="float32")
    waveform = torchaudio.functional.resample(torch.from_numpy(samples), from_hz, rate_hz)
    recording = encode(waveform.numpy()[:, None].repeat(channels, 1), rate_hz, container, subtype)
    reply = post(f"{inference_url}/predictions/wav2vec2", recording, AUDIO)
    assert reply.body == b"TURN ON THE KITCHEN LIGHTS"


def test_forms_of_a_recording(inference_url: str) -> None:
    url = f"{inference_url}/predictions/wav2vec2"
    encoded = json.dumps({"data": base64.b64encode(SPEECH).decode()}).encode()
    samples, rate_hz = soundfile.read(io.BytesIO(SPEECH), dtype="int16")
    bare = samples.astype(">i2").tobytes()
    for body, content_type in [(encoded, JSON), (bare, f"audio/L16; rate={rate_hz}; channels=1")]:
        assert post(url, body, content_type).body == b"TURN ON THE KITCHEN LIGHTS"
    refused = post(url, bare, "audio/L16")
    assert refused.status == 400
    assert b"Expected rate from 4000 to 384000 in Content-Type" in refused.body


@pytest.mark.parametrize(
    ("accept", "content_type", "pattern"),
    [
        ("*/*", "text/plain", "TURN ON THE KITCHEN LIGHTS"),
        ("application/json", "application/json", has("confidence")),
        (
            "text/vtt",
            "text/vtt",
            r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0.*\nTURN ON THE KITCHEN LI.*",
        ),
        ("application/x-subrip", "application/x-subrip", r"1\n00:00:00,\d{3} --> .*LIGHTS\n"),
    ],
)
def test_transcript_comes_in_the_form_asked_for(
    inference_url: str, accept: str, content_type: str, pattern: str
) -> None:
    url = f"{inference_url}/predictions/wav2vec2"
    reply = post(url, SPEECH, AUDIO, Accept=accept)
    assert reply.status == 200
    assert reply.content_type is not None
    assert reply.content_type.startswith(content_type)
    assert re.fullmatch(pattern, reply.body.decode(), re.DOTALL)


def test_explanation_of_speech_is_an_alignment_or_a_picture(inference_url: str) -> None:
    url = f"{inference_url}/explanations/wav2vec2"
    alignment = post(url, SPEECH, AUDIO)
    assert json.loads(alignment.body)["words"][4]["word"] == "LIGHTS"
    picture = post(url, SPEECH, AUDIO, Accept="image/png")
    assert picture.content_type == "image/png"
    assert picture.body.startswith(b"\x89PNG")


def test_field_of_a_form_chooses_too(inference_url: str) -> None:
    url = f"{inference_url}/predictions/wav2vec2"
    form = ("-F", f"file=@{EXAMPLES / 'turn_on_the_kitchen_lights.wav'}")
    words = json.loads(curl(url, *form, "-F", "response_format=json"))["words"]
    assert [word["word"] for word in words] == ["TURN", "ON", "THE", "KITCHEN", "LIGHTS"]
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(words))
    assert "--> 00:00:0" in curl(url, *form, "-F", "response_format=vtt")
    assert json.loads(curl(url, *form, "-F", "response_format=pdf"))["code"] == 422


def curl(*arguments: str) -> str:
    result = subprocess.run(["curl", "-s", *arguments], capture_output=True, text=True, check=True)
    return result.stdout


def test_forms_of_curl(inference_url: str) -> None:
    review = f"{inference_url}/predictions/bert_seq_classification"
    speech = str(EXAMPLES / "turn_on_the_kitchen_lights.wav")
    transcript = curl("-X", "POST", f"{inference_url}/predictions/wav2vec2", "-T", speech)
    assert transcript == "TURN ON THE KITCHEN LIGHTS"
    assert curl(f"{inference_url}/predictions/wav2vec2", "-F", f"data=@{speech}") == transcript
    assert curl(review, "-F", f"data=@{EXAMPLES / 'review_accepted.txt'}") == "Accepted"
    assert curl(review, "-H", "Content-Type: text/plain", "--data-binary", REVIEW.decode())
    assert curl(f"{inference_url}/predictions/wav2vec2", "-F", f"file=@{speech}") == transcript
    form: dict[str, Any] = json.loads(curl(review, "-d", "hello"))
    assert form["code"] == 400


def test_segments_of_wav2vec2_come_window_by_window(inference_url: str) -> None:
    """They make up the plain answer, and the first do not wait for the last."""
    samples, rate_hz = soundfile.read(io.BytesIO(SPEECH), dtype="float32")
    long = encode(np.concatenate([samples] * 50), rate_hz, "WAV", "PCM_16")
    url = f"{inference_url}/predictions/wav2vec2"
    headers = {"Accept": "application/x-ndjson", "Content-Type": AUDIO}
    with httpx2.stream("POST", url, content=long, headers=headers, timeout=120) as response:
        chunks = list(response.iter_raw())
    *segments, summary = map(json.loads, b"".join(chunks).splitlines())
    assert 0 < chunks[0].count(b"\n") < len(segments)
    plain = post(url, long, AUDIO).body.decode()
    assert summary == {"text": plain, "duration": round(50 * len(samples) / rate_hz, 3)}
    assert " ".join(segment["text"] for segment in segments) == plain


def test_segments_come_as_they_end(inference_url: str) -> None:
    """A recording of many sentences in one request, among others that are not streamed."""
    samples, rate_hz = soundfile.read(io.BytesIO(SPEECH), dtype="float32")
    pause = np.zeros(rate_hz, np.float32)
    long = encode(np.concatenate([samples, pause] * 20), rate_hz, "WAV", "PCM_16")
    url = f"{inference_url}/predictions/emformer_asr"
    headers = {"Accept": "application/x-ndjson", "Content-Type": AUDIO}
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(post, url, SPEECH, AUDIO) for _ in range(4)]
        with httpx2.stream("POST", url, content=long, headers=headers, timeout=120) as response:
            assert response.headers["content-type"].startswith("application/x-ndjson")
            chunks = list(response.iter_raw())
        for other in others:
            assert other.result().body == b"turn on the kitchen lights"
    # The first segments did not wait for the last.
    assert 0 < chunks[0].count(b"\n") < 20
    *segments, summary = map(json.loads, b"".join(chunks).splitlines())
    assert [segment["text"] for segment in segments] == ["turn on the kitchen lights"] * 20
    assert all(a["end"] < b["start"] for a, b in itertools.pairwise(segments))
    assert summary["text"] == " ".join(["turn on the kitchen lights"] * 20)
