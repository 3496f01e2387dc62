"""The two speech handlers, with their demo models, through TorchServe's own loader."""

import base64
import io
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor, pipeline

from archives.configs import read_configs
from archives.emformer import load_emformer
from batches import error_body
from repository import ROOT
from serving.local import build_with_settings, load_archive
from speechtext.errors import UnsupportedMediaError
from speechtext.speech.audio import decode_audio
from speechtext.speech.chunks import Windows
from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.frame_models import compute_frames
from speechtext.speech.transcripts import Token
from support.common import EXAMPLES, LoadModel
from support.speech import normalize

TRANSCRIPTS: dict[str, str] = json.loads((EXAMPLES / "transcripts.json").read_text())
SPEECH = ["wav2vec2", "emformer_asr"]
RATE_HZ = 16_000


def as_wav(samples: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def cut_speech(count: int, seed: int) -> list[bytes]:
    """Return recordings of unlike length: noisy cuts of the examples in random loudness."""
    generator = np.random.default_rng(seed)
    names = sorted(TRANSCRIPTS)
    recordings = []
    for _ in range(count):
        samples, rate_hz = soundfile.read(EXAMPLES / names[generator.integers(len(names))])
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
        length = int(generator.integers(rate_hz // 3, len(samples)))
        noise = generator.normal(0, 0.003, length)
        recordings.append(as_wav((samples[:length] + noise) * generator.uniform(0.1, 1), rate_hz))
    return recordings


@pytest.mark.parametrize("archive", SPEECH)
def test_examples_are_understood(archive: str, load_model: LoadModel) -> None:
    rows = [{"body": (EXAMPLES / name).read_bytes()} for name in TRANSCRIPTS]
    replies = load_model(archive).answer(rows)
    assert [reply.answer.lower() for reply in replies] == list(TRANSCRIPTS.values())
    assert {reply.status for reply in replies} == {200}


@pytest.mark.parametrize("archive", SPEECH)
@pytest.mark.parametrize("batch_size", [2, 8, 32])
def test_answer_does_not_depend_on_the_batch(
    archive: str, batch_size: int, load_model: LoadModel
) -> None:
    model = load_model(archive)
    rows = [{"data": recording} for recording in cut_speech(batch_size, seed=batch_size)]
    together = [reply.answer for reply in model.answer(rows)]
    assert together == [model.answer([row])[0].answer for row in rows]


@pytest.mark.parametrize("archive", SPEECH)
def test_broken_rows_fail_alone(archive: str, load_model: LoadModel) -> None:
    good = {"body": bytearray((EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes())}
    long = {"body": as_wav(np.zeros(4_000 * 3_601), 4_000)}
    rows: list[dict[str, Any]] = [
        {},
        good,
        {"body": b"not audio"},
        {"body": {"data": "not base64!"}},
        good,
        long,
        good,
    ]
    headers: list[dict[str, str]] = [{}] * 6 + [{"explain": "True"}]
    replies = load_model(archive).answer(rows, headers)
    assert [reply.status for reply in replies] == [400, 200, 415, 400, 200, 413, 200]
    assert replies[1] == replies[4]
    assert replies[1].answer.lower() == "turn on the kitchen lights"
    for reply in replies:
        if reply.status != 200:
            assert set(reply.answer) == {"code", "type", "message"}


@pytest.mark.parametrize("archive", SPEECH)
@pytest.mark.parametrize("samples", [1, 159, 399, 400, 2559, 2560])
def test_clip_of_any_shortness_has_an_answer(
    archive: str, samples: int, load_model: LoadModel
) -> None:
    reply = load_model(archive).answer([{"body": as_wav(np.zeros(samples))}])[0]
    assert (reply.status, reply.answer) == (200, "")


@pytest.mark.parametrize("archive", SPEECH)
def test_no_rows_get_no_answers(archive: str, load_model: LoadModel) -> None:
    assert load_model(archive).answer([]) == []


def test_wav2vec2_equals_transformers(
    load_model: LoadModel, unpacked: Callable[[str], Path]
) -> None:
    folder = unpacked("wav2vec2")
    processor = Wav2Vec2Processor.from_pretrained(folder)
    reference = Wav2Vec2ForCTC.from_pretrained(folder, dtype=torch.float32).eval()
    recordings = cut_speech(200, seed=1)
    replies = load_model("wav2vec2").answer([{"body": recording} for recording in recordings])
    for recording, reply in zip(recordings, replies, strict=True):
        samples, rate_hz = soundfile.read(io.BytesIO(recording), dtype="float32")
        if rate_hz != RATE_HZ:
            continue
        inputs = processor(samples, sampling_rate=RATE_HZ, return_tensors="pt")
        with torch.inference_mode():
            labels = reference(inputs.input_values).logits[0].argmax(dim=-1)
        assert reply.answer == processor.decode(labels).strip()


def speak(names: Sequence[str]) -> np.ndarray:
    """Return examples one after the other, at 16 kHz, with a pause after each."""
    pieces = []
    for name in names:
        waveform = decode_audio((EXAMPLES / name).read_bytes(), RATE_HZ, 60).numpy()
        pieces += [waveform, np.zeros(RATE_HZ // 3, dtype=np.float32)]
    return np.concatenate(pieces)


@torch.inference_mode()
def test_words_at_window_borders_are_neither_lost_nor_doubled(load_model: LoadModel) -> None:
    model = load_model("wav2vec2").handler.recognizer.frame_model
    names = sorted(TRANSCRIPTS)
    for seed in range(4):
        order: list[str] = np.random.default_rng(seed).permutation(names * 4).tolist()
        waveform = torch.from_numpy(speak(order))
        whole = model.run([normalize(waveform)])[0]
        windows = compute_frames(model, [waveform], Windows(10 + seed, 2))[0]
        assert len(waveform) > 4 * RATE_HZ * (10 + seed)
        assert labels_of(windows) == labels_of(whole)


def labels_of(emission: torch.Tensor) -> list[int]:
    return [token.label for token in find_best_path(emission.softmax(dim=-1).cpu(), 0)]


def test_long_recording_has_words_and_text(load_model: LoadModel) -> None:
    recording = as_wav(speak(sorted(TRANSCRIPTS) * 4))
    transcript, plain = (
        reply.answer
        for reply in load_model("wav2vec2").answer(
            [{"body": recording, "response_format": "json"}, {"body": recording}]
        )
    )
    assert transcript["text"] == plain
    assert " ".join(word["word"] for word in transcript["words"]) == plain
    assert len(plain.split()) > 100
    assert transcript["duration"] == pytest.approx(len(recording) / 2 / RATE_HZ, abs=0.01)
    times = [time_s for word in transcript["words"] for time_s in (word["start"], word["end"])]
    assert times == sorted(times)
    assert transcript["duration"] - 3 < times[-1] <= transcript["duration"]


@torch.inference_mode()
def test_times_are_those_of_a_forced_alignment(load_model: LoadModel) -> None:
    handler = load_model("wav2vec2").handler
    blank, space = (
        handler.processor.tokenizer.pad_token_id,
        handler.processor.tokenizer.word_delimiter_token_id,
    )
    for recording in cut_speech(200, seed=5):
        waveform = normalize(decode_audio(recording, RATE_HZ, 60))
        emission = handler.recognizer.frame_model.run([waveform])[0].cpu()
        tokens = find_best_path(emission.softmax(dim=-1), blank)
        if not tokens:
            continue
        targets = torch.tensor([[token.label for token in tokens]])
        path, scores = torchaudio.functional.forced_align(
            emission.log_softmax(dim=-1)[None], targets, blank=blank
        )
        spans = torchaudio.functional.merge_tokens(path[0], scores[0].exp(), blank)
        aligned = group_words([Token(s.token, s.start, s.end, s.score) for s in spans], space)
        for word, expected in zip(group_words(tokens, space), aligned, strict=True):
            # Two frames of 20 ms.
            assert abs(word[0].start - expected[0].start) <= 2
            assert abs(word[-1].stop - expected[-1].stop) <= 2


def test_wav2vec2_contract(load_model: LoadModel) -> None:
    handler = load_model("wav2vec2").handler
    assert handler.initialized
    assert handler.expected_sampling_rate == RATE_HZ
    assert next(handler.model.parameters()).device == handler.device
    assert handler.processor.feature_extractor.sampling_rate == RATE_HZ
    assert handler._context.system_properties["model_dir"]
    assert not handler.model.training


def test_file_of_the_common_example_answers_plainly(
    unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "emformer_asr"
    shutil.copytree(unpacked("emformer_asr"), folder)
    source = ROOT / "demo_models" / "emformer_asr"
    model = load_emformer(source)
    search = torchaudio.models.RNNTBeamSearch(model, model.joiner.linear.out_features - 1)
    torch.jit.script(search).save(str(folder / "model.pt"))
    (folder / "provenance.json").unlink()
    with pytest.raises(ValueError, match=r"global_stats.json must be in the archive"):
        load_archive(folder)
    shutil.copy(source / "global_stats.json", folder)
    rows = [{"body": (EXAMPLES / name).read_bytes()} for name in TRANSCRIPTS]
    model = load_archive(folder)
    json_wanted = [{"Accept": "application/json"}] * len(rows)
    replies = model.answer(rows, json_wanted)
    assert [reply.answer for reply in replies] == list(TRANSCRIPTS.values())
    subtitles = {**rows[0], "response_format": "vtt"}
    too_long = {"body": as_wav(np.zeros(4_000 * 121), 4_000)}
    hotwords: dict[str, Any] = {"data": rows[0]["body"], "hotwords": ["kitchen"]}
    headers: list[dict[str, str]] = [{"explain": "True"}, {}, {}, {}]
    asked: list[Any] = [rows[0], {**subtitles, "data": rows[0]["body"]}, too_long, hotwords]
    replies = model.answer(asked, headers)
    assert [reply.status for reply in replies] == [422, 422, 413, 422]
    assert replies[3].answer["type"] == "HotwordsUnsupported"
    assert model.answer([{}], [{"describe": "True"}])[0].answer["hotwords"] is False


def test_emformer_contract(load_model: LoadModel) -> None:
    handler = load_model("emformer_asr").handler
    assert handler.initialized
    assert isinstance(handler.model, torch.jit.ScriptModule)
    assert handler.device.type in {"cpu", "cuda"}


def test_request_errors_say_what_arrived(load_model: LoadModel) -> None:
    reply = load_model("wav2vec2").answer([{"body": b"x" * 77}])[0]
    assert "77 bytes" in reply.answer["message"]
    error = UnsupportedMediaError("UnsupportedAudio", reply.answer["message"])
    assert error_body(error) == reply.answer


@pytest.mark.parametrize("archive", SPEECH)
def test_bfloat16_understands_the_examples(archive: str, tmp_path: Path) -> None:
    config = read_configs()[archive]
    folder = build_with_settings(config, ROOT / config.source, tmp_path, dtype="bfloat16")
    rows = [{"body": (EXAMPLES / name).read_bytes()} for name in TRANSCRIPTS]
    replies = load_archive(folder).answer(rows)
    assert [reply.answer.lower() for reply in replies] == list(TRANSCRIPTS.values())


def test_emformer_searches_where_a_width_is_given(tmp_path: Path) -> None:
    config = read_configs()["emformer_asr"]
    rows = [{"body": (EXAMPLES / name).read_bytes()} for name in TRANSCRIPTS]
    searches: list[dict[str, Any]] = [{"beam_width": 4}, {"beam_width": 1, "step_max_tokens": 3}]
    for settings in searches:
        folder = build_with_settings(config, ROOT / config.source, tmp_path, **settings)
        assert [reply.answer for reply in load_archive(folder).answer(rows)] == list(
            TRANSCRIPTS.values()
        )


def test_word_times_of_emformer_are_where_speech_is(load_model: LoadModel) -> None:
    """Words come in order, inside the recording, and not before their sound begins."""
    for name in TRANSCRIPTS:
        recording = (EXAMPLES / name).read_bytes()
        json_wanted = [{"Accept": "application/json"}]
        answer = load_model("emformer_asr").answer([{"body": recording}], json_wanted)[0].answer
        words = answer["words"]
        assert " ".join(word["word"] for word in words) == answer["text"] == TRANSCRIPTS[name]
        assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(words))
        assert words[-1]["end"] <= answer["duration"]
        samples, rate_hz = soundfile.read(io.BytesIO(recording), always_2d=True)
        loud = np.abs(samples).max(axis=1) > 0.02
        assert words[0]["start"] >= loud.argmax() / rate_hz - 0.1
        assert all(0 < word["confidence"] <= 1 for word in words)


def test_chunks_are_those_of_the_pipeline(load_model: LoadModel) -> None:
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    inputs = base64.b64encode(recording).decode()
    row = {"body": {"inputs": inputs, "parameters": {"return_timestamps": "word"}}}
    (reply,) = load_model("wav2vec2").answer([row])
    recognize = pipeline("automatic-speech-recognition", str(ROOT / "demo_models" / "wav2vec2"))
    samples, rate_hz = soundfile.read(io.BytesIO(recording), dtype="float32")
    asked: dict[str, Any] = {"raw": samples, "sampling_rate": rate_hz}
    answer: Any = recognize(asked, return_timestamps="word")
    chunks, expected = reply.answer["chunks"], answer["chunks"]
    assert [each["text"] for each in chunks] == [each["text"] for each in expected]
    for found, other in zip(chunks, expected, strict=True):
        assert found["timestamp"] == found["timestamps"]
        # A frame is 20 ms.
        assert found["timestamp"] == pytest.approx(list(other["timestamp"]), abs=0.021)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"nonsense": 1}}, "parameters to be fields among response_format"),
        ({"parameters": [1]}, "parameters to be a JSON object"),
        ({"parameters": {"response_format": "paper"}}, "response_format"),
        ({"return_timestamps": "char"}, 'return_timestamps to be a boolean or "word"'),
        ({"parameters": {"return_timestamps": True, "response_format": "srt"}}, "other than json"),
    ],
)
def test_parameters_that_cannot_be_are_refused(
    fields: dict[str, Any], message: str, load_model: LoadModel
) -> None:
    recording = base64.b64encode((EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes())
    (reply,) = load_model("emformer_asr").answer([{"body": {"data": recording.decode(), **fields}}])
    assert reply.status == 422
    assert message in reply.answer["message"]
