"""Hotwords and streams of segments, with the demo models as archives that search."""

import io
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from archives.configs import read_configs
from archives.errors import BuildError
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from speechtext.speech.audio import decode_audio
from support.common import EXAMPLES, LoadModel

pytest.importorskip("kenlm", reason="the extra lm is not installed: make lm needs a C++ compiler")

TRANSCRIPTS: dict[str, str] = json.loads((EXAMPLES / "transcripts.json").read_text())
RATE_HZ = 16_000
SEARCHES: dict[str, dict[str, Any]] = {
    "wav2vec2": {"decoder": "beam", "beam_width": 20},
    "emformer_asr": {"beam_width": 4},
}
LoadSearch = Callable[[str], LocalModel]


@pytest.fixture(scope="module")
def load_search(tmp_path_factory: pytest.TempPathFactory) -> LoadSearch:
    """Return a function from an archive's name to its model, which searches."""

    @cache
    def load(name: str) -> LocalModel:
        config = read_configs()[name]
        workspace = tmp_path_factory.mktemp(name)
        settings = SEARCHES[name]
        return load_archive(
            build_with_settings(config, ROOT / config.source, workspace, **settings)
        )

    return load


def as_wav(samples: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def samples_of(name: str) -> Any:
    return decode_audio((EXAMPLES / name).read_bytes(), RATE_HZ, 60).numpy()


def noisy(count: int, signal_to_noise_db: float) -> list[tuple[str, bytes]]:
    """Return sentences and recordings of them with white noise."""
    generator = np.random.default_rng(0)
    found = []
    for name in itertools.islice(itertools.cycle(sorted(TRANSCRIPTS)), count):
        samples = samples_of(name)
        noise = generator.normal(0, samples.std() * 10 ** (-signal_to_noise_db / 20), len(samples))
        found.append((TRANSCRIPTS[name], as_wav(samples + noise)))
    return found


def ask(recording: bytes, hotwords: Any = None, boost: Any = None) -> dict[str, Any]:
    """Return a row with fields as a form has them: bytes."""
    fields = {"hotwords": hotwords, "hotword_boost": boost}
    given = {name: json.dumps(each).encode() for name, each in fields.items() if each is not None}
    return {"data": recording, **given}


def texts(model: LocalModel, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    replies = [model.answer([row])[0] for row in rows]
    assert {reply.status for reply in replies} == {200}
    return [reply.answer.lower() for reply in replies]


@pytest.mark.parametrize("archive", SEARCHES)
def test_words_that_noise_hides_are_found(archive: str, load_search: LoadSearch) -> None:
    """Each sentence's longest word is its hotword: more of them are found, and few elsewhere."""
    model, sentences = load_search(archive), noisy(16, signal_to_noise_db=-6)
    longest = [max(text.split(), key=len) for text, _ in sentences]
    plain = texts(model, [ask(recording) for _, recording in sentences])
    helped = texts(
        model,
        [
            ask(recording, [word], 1.5)
            for word, (_, recording) in zip(longest, sentences, strict=True)
        ],
    )
    found, found_helped = (
        sum(word in text.split() for word, text in zip(longest, answers, strict=True))
        for answers in (plain, helped)
    )
    assert found < found_helped
    # What is found without them is found with them.
    for word, before, after in zip(longest, plain, helped, strict=True):
        assert word not in before.split() or word in after.split()


@pytest.mark.parametrize("archive", SEARCHES)
def test_hotwords_without_a_boost_change_nothing(archive: str, load_search: LoadSearch) -> None:
    model = load_search(archive)
    headers = [{"Accept": "application/json"}]
    for _, recording in noisy(4, signal_to_noise_db=3):
        plain, asked = (
            model.answer([row], headers)[0].answer
            for row in (ask(recording), ask(recording, ["kitchen lights", "garage"], 0))
        )
        assert plain["text"] == asked["text"]
        for before, after in zip(plain["words"], asked["words"], strict=True):
            assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("archive", SEARCHES)
def test_requests_of_a_batch_are_answered_as_alone(archive: str, load_search: LoadSearch) -> None:
    """With hotwords, other ones, none, or impossible ones: whoever the neighbours are."""
    model, generator = load_search(archive), random.Random(0)
    choices: list[tuple[Any, Any]] = [
        (None, None),
        (["garage", "bedroom door"], 3),
        (["lights", "twenty"], 2.5),
        ([], None),
        (["7"], None),
    ]
    recordings = [recording for _, recording in noisy(10, signal_to_noise_db=-3)]
    rows = [
        ask(recording, *choices[index % len(choices)]) for index, recording in enumerate(recordings)
    ]
    headers = [{"Accept": "application/json"}] * len(rows)
    alone = [model.answer([row], headers[:1])[0] for row in rows]
    assert [reply.status for reply in alone] == [200, 200, 200, 200, 422] * 2
    for _ in range(2):
        order = generator.sample(range(len(rows)), len(rows))
        together = model.answer([rows[index] for index in order], headers)
        assert together == [alone[index] for index in order]
    plain = [model.answer([ask(recording)], headers[:1])[0] for recording in recordings]
    assert plain[0] == alone[0]
    assert plain[3] == alone[3]
    assert any(plain[index] != alone[index] for index in (1, 2, 6, 7))


ERRORS = [
    (b'["kitchen"', None, "InvalidParameter", "hotwords as JSON"),
    (b'["ki", 5]', None, "InvalidParameter", "hotwords.1: input should be a valid string"),
    (b'["kitchen"]', b"11", "InvalidParameter", "less than or equal to 10, got 11"),
    (b'["kitchen"]', b"two", "InvalidParameter", "hotword_boost as JSON"),
    (b'["kitchen", "caf\xc3\xa9"]', None, "UnknownSpelling", "hotwords.1"),
    (b'["  "]', None, "UnknownSpelling", "hotwords.0"),
]


@pytest.mark.parametrize("archive", SEARCHES)
@pytest.mark.parametrize(("hotwords", "boost", "kind", "said"), ERRORS)
def test_impossible_hotwords_fail_alone(
    archive: str, hotwords: bytes, boost: Any, kind: str, said: str, load_search: LoadSearch
) -> None:
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    rows = [{"data": recording, "hotwords": hotwords, "hotword_boost": boost}, {"data": recording}]
    failed, good = load_search(archive).answer(rows)
    assert (failed.status, failed.answer["type"]) == (422, kind)
    assert said in failed.answer["message"]
    assert "caf" not in failed.answer["message"]
    assert (good.status, good.answer.lower()) == (200, "turn on the kitchen lights")


@pytest.mark.parametrize("archive", SEARCHES)
@pytest.mark.parametrize("fields", [{"hotwords": ["kitchen"]}, {"hotword_boost": 1.0}])
def test_greedy_archives_refuse_hotwords(
    archive: str, fields: dict[str, Any], load_model: LoadModel
) -> None:
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    rows = [{"data": recording, **fields}, {"data": recording}, {"data": recording, "hotwords": []}]
    replies = load_model(archive).answer(rows)
    assert [reply.status for reply in replies] == [422, 200, 200]
    assert replies[0].answer["type"] == "HotwordsUnsupported"
    assert "this archive decodes greedily; set " in replies[0].answer["message"]


@pytest.mark.parametrize("archive", SEARCHES)
def test_models_tell_whether_they_take_hotwords(
    archive: str, load_search: LoadSearch, load_model: LoadModel
) -> None:
    asked = [{"describe": "True"}]
    greedy = load_model(archive).answer([{}], asked)[0].answer
    searching = load_search(archive).answer([{}], asked)[0].answer
    assert (greedy["hotwords"], searching["hotwords"]) == (False, True)
    assert greedy["streams"] == searching["streams"] == ["application/x-ndjson"]
    live = load_model("emformer_asr_live").answer([{}], asked)[0].answer
    assert live["hotwords"] is False


@pytest.mark.parametrize("archive", SEARCHES)
def test_explanations_show_what_was_found(archive: str, load_search: LoadSearch) -> None:
    recording = noisy(2, signal_to_noise_db=-6)[1][1]
    row = ask(recording, ["kitchen lights"], 2)
    model = load_search(archive)
    text = model.answer([row])[0].answer
    answer = model.answer([row], [{"explain": "True"}])[0].answer
    assert answer["text"] == text
    assert [word["word"] for word in answer["words"]] == text.split()
    assert all(0 < token["probability"] <= 1 for token in answer["tokens"])


def test_hotwords_of_the_yaml_need_a_search(tmp_path: Path) -> None:
    """The builder says so, or else the load."""
    for name, said in (("wav2vec2", "decoder: beam"), ("emformer_asr", "beam_width")):
        config = read_configs()[name]
        with pytest.raises((BuildError, ValueError), match=f"expected a?.*{said}.* for hotwords"):
            load_archive(
                build_with_settings(config, ROOT / config.source, tmp_path, hotwords=["kitchen"])
            )


def spaced(names: Sequence[str], silences_s: Sequence[float]) -> bytes:
    """Return examples one after the other, each with a silence behind it."""
    parts = []
    for name, silence_s in zip(names, silences_s, strict=True):
        parts += [samples_of(name), np.zeros(int(silence_s * RATE_HZ), dtype=np.float32)]
    return as_wav(np.concatenate(parts))


def check_stream(model: LocalModel, recording: bytes, **fields: Any) -> list[dict[str, Any]]:
    """Check that segments make up the plain answer; return them."""
    wanted = ["ndjson", "json"]
    rows = [{"data": recording, "response_format": each, **fields} for each in wanted]
    streamed, whole = (reply.answer for reply in model.answer(rows))
    *segments, summary = map(json.loads, streamed.splitlines())
    assert summary == {"text": whole["text"], "duration": whole["duration"]}
    assert " ".join(segment["text"] for segment in segments) == whole["text"]
    words = [word for segment in segments for word in segment["words"]]
    assert words == whole["words"]
    for segment in segments:
        assert segment["start"] == segment["words"][0]["start"]
        assert segment["end"] == segment["words"][-1]["end"]
    return segments


@pytest.mark.parametrize("search", [False, True])
def test_wav2vec2_tells_segments(
    search: bool, load_search: LoadSearch, load_model: LoadModel
) -> None:
    """Of a recording of several windows, and of shorter ones; the model's own are of 20 s."""
    model = (load_search if search else load_model)("wav2vec2")
    names = sorted(TRANSCRIPTS)
    recording = spaced(names * 3, [0.3] * 3 * len(names))
    segments = check_stream(model, recording)
    assert len(segments) >= len(recording) / 2 / RATE_HZ // 20
    assert all(segment["end"] - segment["start"] <= 20 for segment in segments)
    assert len(check_stream(model, spaced(names[:3], [0.1] * 3))) == 1
    assert check_stream(model, as_wav(np.zeros(RATE_HZ))) == []
    if search:
        fields = {"hotwords": ["garage"], "hotword_boost": 2}
        assert check_stream(model, spaced(names[:3], [1.5] * 3), **fields)
