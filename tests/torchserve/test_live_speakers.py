"""Live sessions that tell who speaks, with an archive that has a model of voices."""

import itertools
from typing import Any

import pytest
import torch

from archives.configs import read_configs
from repository import ROOT
from serving.local import LocalModel, Reply, build_with_settings, load_archive
from support.common import EXAMPLES
from support.recordings import join_turns, read_turns
from support.speech import failing_call
from trials.good_traffic import session_headers

TEXTS = [text for text, _ in read_turns()]
TALK = (EXAMPLES / "conversations" / "two_speakers.wav").read_bytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    config = read_configs()["emformer_asr_live"]
    keys = {"speaker_model": "demo_models/wav2vec2_voices", "speaker_threshold": 0.3}
    workspace = tmp_path_factory.mktemp("live")
    # The speakers of the example take turns after 0.8 s.
    settings: dict[str, Any] = keys | {"endpoint_silence_s": 0.5}
    return load_archive(build_with_settings(config, ROOT / config.source, workspace, **settings))


def speak(model: LocalModel, name: str, recording: bytes, piece_bytes: int) -> list[dict[str, Any]]:
    """Return the final words of a session."""
    places = range(0, len(recording), piece_bytes)
    words: list[dict[str, Any]] = []
    for place in places:
        headers = session_headers(name, place == 0, place == places[-1])
        (reply,) = model.answer([{"body": recording[place : place + piece_bytes]}], [headers])
        assert reply.status == 200, reply.answer
        words += reply.answer["words"]
    return words


def test_words_have_the_speaker_of_their_turn(model: LocalModel) -> None:
    words = speak(model, "turns", TALK, 8_000)
    turns = [
        (who, " ".join(word["word"] for word in said))
        for who, said in itertools.groupby(words, key=lambda word: word["speaker"])
    ]
    assert turns == list(zip(["Speaker 1", "Speaker 2"] * 2, TEXTS, strict=True))


@pytest.mark.parametrize("piece_bytes", [997, 3_200, 100_000])
def test_speakers_do_not_depend_on_the_pieces(piece_bytes: int, model: LocalModel) -> None:
    expected = speak(model, "expected", TALK, 8_000)
    assert speak(model, f"pieces {piece_bytes}", TALK, piece_bytes) == expected


def test_sessions_beside_each_other_have_speakers_of_their_own(model: LocalModel) -> None:
    """The second hears the second voice first, and so calls it its first."""
    places = range(0, len(TALK), 8_000)
    names: dict[str, list[str]] = {"a": [], "b": []}
    second = join_turns(1, 2, 3)
    for place in places:
        for name, recording in (("a", TALK), ("b", second)):
            headers = session_headers(name, place == 0, place == places[-1])
            (reply,) = model.answer([{"body": recording[place : place + 8_000]}], [headers])
            names[name] += [word["speaker"] for word in reply.answer["words"]]
    turns = {name: [who for who, _ in itertools.groupby(each)] for name, each in names.items()}
    assert turns["a"] == ["Speaker 1", "Speaker 2"] * 2
    assert turns["b"] == ["Speaker 1", "Speaker 2", "Speaker 1"]


@pytest.mark.parametrize("kind", ["OutOfMemory", "TookTooLong"])
def test_session_whose_voices_fail_ends_and_the_others_have_told_theirs(
    model: LocalModel, kind: str
) -> None:
    """Each hears two turns of a batch: the second one's voices fail, once."""
    errors: dict[str, tuple[int, Exception]] = {
        "OutOfMemory": (507, torch.OutOfMemoryError("none left")),
        "TookTooLong": (503, model.module("speechtext.allowance").took_too_long(1.0)),
    }
    status, error = errors[kind]
    voices = model.handler._diarizer._voices.network.feature_extractor
    rows = [{"body": TALK[: len(TALK) // 2]}] * 3
    names = [f"{kind} {place}" for place in range(3)]

    def send(rows: list[dict[str, bytes]], last: bool) -> list[Reply]:
        return model.answer(rows, [session_headers(name, not last, last) for name in names])

    with failing_call(voices, 0, error) as calls:
        (expected,) = model.answer(rows[:1], [session_headers("alone", True, True)])
    assert expected.answer["final"].startswith(TEXTS[0])
    with failing_call(voices, calls[0] + 1, error):
        told = send(rows, last=False)
    assert [reply.status for reply in told] == [200, status, 200]
    assert told[1].answer["type"] == kind
    ends = send([{"body": b""}] * 3, last=True)
    assert [reply.status for reply in ends] == [200, 410, 200]
    for place in (0, 2):
        finals = [told[place].answer["final"], ends[place].answer["final"]]
        assert " ".join(finals).strip() == ends[place].answer["text"] == expected.answer["text"]
        assert finals[0]


def test_session_of_an_archive_without_voices_has_no_speakers(load_model: Any) -> None:
    words = speak(load_model("emformer_asr_live"), "plain", TALK, 32_000)
    assert words
    assert not any("speaker" in word for word in words)
