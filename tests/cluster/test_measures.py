"""How much work a request is, as replicas and jobs in bulk see it before they begin."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer

from cluster.archives import Archive, ArchiveError
from cluster.measures import choose_measure, measure_audio, measure_tokens
from cluster.requests import WorkerRequest
from repository import ROOT
from speechtext.speech.containers import SMALL_BYTES
from speechtext.speech.trial_opening import opener
from support.common import EXAMPLES
from trials.broken_audio import encode, encode_by_ffmpeg

RATE_HZ = 16_000
SPEECH = soundfile.read(EXAMPLES / "turn_on_the_kitchen_lights.wav", dtype="float32")[0]
TOKENIZER = ROOT / "demo_models" / "bert_seq_classification" / "tokenizer.json"
BY_LIBSNDFILE = [
    *[("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("AIFF", "PCM_16")],
    *[("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
]
BY_FFMPEG = [("ipod", "aac"), ("mov", "alac"), ("3gp", "aac"), ("webm", "libopus")]


def binary(recording: bytes) -> WorkerRequest:
    return WorkerRequest((("Content-Type", "application/octet-stream"),), recording)


@pytest.mark.parametrize("seconds", [2, 47])
@pytest.mark.parametrize(("container", "codec"), [*BY_LIBSNDFILE, *BY_FFMPEG])
def test_recordings_are_as_long_as_their_containers_say(
    container: str, codec: str | None, seconds: int
) -> None:
    samples = np.resize(SPEECH, seconds * RATE_HZ)
    if codec and (container, codec) in BY_FFMPEG:
        recording = encode_by_ffmpeg(samples, RATE_HZ, container, codec)
    else:
        recording = encode(samples, RATE_HZ, container, codec)
    assert measure_audio(binary(recording)) == pytest.approx(seconds, abs=0.1)


def test_longest_part_of_a_form_counts() -> None:
    files = [encode(SPEECH[: each * RATE_HZ // 2], RATE_HZ) for each in (1, 3, 2)]
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%d"; filename="a.wav"\r\n\r\n%s\r\n'
        % (number, file)
        for number, file in enumerate(files)
    )
    form = WorkerRequest((("Content-Type", "multipart/form-data; boundary=x"),), parts + b"--x--")
    assert measure_audio(form) == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("content", [b"", b"no recording", encode(SPEECH, RATE_HZ)[:20]])
def test_what_is_no_recording_is_no_work(content: bytes) -> None:
    assert measure_audio(binary(content)) == 0


def test_length_is_what_the_header_of_a_wav_says() -> None:
    """Whatever its samples are; how fast it is read is not tested."""
    recording = encode(SPEECH, RATE_HZ)
    start = recording.index(b"data") + 8
    noise = np.random.default_rng(0).bytes(len(recording) - start)
    assert measure_audio(binary(recording[:start] + noise)) == len(SPEECH) / RATE_HZ


def test_recording_is_opened_in_a_process_that_can_be_ended() -> None:
    """As it is to be answered: FFmpeg may take minutes."""
    recording = encode_by_ffmpeg(np.resize(SPEECH, 20 * RATE_HZ), RATE_HZ, "ipod", "aac")
    assert len(recording) > SMALL_BYTES
    opener.end()
    assert measure_audio(binary(recording)) == pytest.approx(20, abs=0.1)
    assert opener.process_id is not None


def test_archive_whose_library_cannot_tell_a_length_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("speechtext.speech.containers.find_duration_s")
    assert measure_audio(binary(encode(SPEECH, RATE_HZ))) == 0


def test_half_of_a_surrogate_pair_counts() -> None:
    body = json.dumps({"text": "cold \ud83d food"}).encode()
    request = WorkerRequest((("Content-Type", "application/json"),), body)
    expected = len(Tokenizer.from_file(str(TOKENIZER)).encode("cold ? food").ids)
    assert measure_tokens(TOKENIZER)(request) == expected == 5


def test_tokens_of_all_texts_count() -> None:
    texts = ["the service was quick", "and the food was cold"]
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    body = json.dumps({"text": texts[0], "parameters": [texts[1]]}).encode()
    request = WorkerRequest((("Content-Type", "application/json"),), body)
    expected = sum(len(tokenizer.encode(each).ids) for each in texts)
    assert measure_tokens(TOKENIZER)(request) == expected


def test_archives_with_a_tokenizer_count_tokens(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "any", "1.0", "handler.py", {})
    assert choose_measure(archive) is measure_audio
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    request = WorkerRequest((("Content-Type", "text/plain"),), b"cold food")
    assert choose_measure(archive)(request) == 4
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArchiveError, match=r"^any: tokenizer\.json: expected a tokenizer, got: "):
        choose_measure(archive)
