"""Who said which word, as the archives of both recognisers answer it."""

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archives.configs import read_configs
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from support.common import LoadModel
from support.recordings import join_turns, read_turns, write_wav

MODELS = ["wav2vec2", "emformer_asr"]
JSON = {"Accept": "application/json"}
WOMAN, MAN = 0, 1
TURNS = (0, 1, 2, 3)
TEXTS = [text for text, _ in read_turns()]


def encoded(number: int) -> str:
    return base64.b64encode(join_turns(number)).decode()


def ask(recording: bytes, **fields: Any) -> dict[str, Any]:
    """Return a row with fields as a form has them: bytes."""
    given = {"diarize": True} | fields
    return {"data": recording, **{name: json.dumps(each).encode() for name, each in given.items()}}


def turns_of(answer: Any) -> list[tuple[str, str]]:
    """Return who says what, turn by turn."""
    turns = itertools.groupby(answer["words"], key=lambda word: word["speaker"])
    return [(who, " ".join(word["word"] for word in words).lower()) for who, words in turns]


@pytest.mark.parametrize("name", MODELS)
def test_two_speakers_take_turns(name: str, load_model: LoadModel) -> None:
    (reply,) = load_model(name).answer([ask(join_turns(*TURNS), num_speakers=2)], [JSON])
    assert reply.status == 200
    speakers = [who for who, _ in turns_of(reply.answer)]
    assert speakers == ["Speaker 1", "Speaker 2", "Speaker 1", "Speaker 2"]
    if name == "emformer_asr":
        said = [text for _, text in turns_of(reply.answer)]
        assert said == TEXTS


@pytest.mark.parametrize("name", MODELS)
def test_speakers_change_nothing_else_of_an_answer(name: str, load_model: LoadModel) -> None:
    """Nor do they depend on who else is in the batch."""
    model, recording = load_model(name), join_turns(*TURNS)
    single = ask(join_turns(MAN))
    rows = [ask(recording), {"data": recording}, single, ask(recording, num_speakers=1)]
    together = model.answer(rows, [JSON] * 4)
    assert [each.status for each in together] == [200] * 4
    alone = [model.answer([row], [JSON])[0] for row in rows]
    assert [each.answer for each in together] == [each.answer for each in alone]
    told, plain, _, one = (each.answer for each in together)
    assert not any("speaker" in word for word in plain["words"])
    for answer in (told, one):
        words = [{key: word[key] for key in word if key != "speaker"} for word in answer["words"]]
        assert {**answer, "words": words} == plain
    assert {word["speaker"] for word in one["words"]} == {"Speaker 1"}


def test_known_speaker_is_named_in_every_format(load_model: LoadModel) -> None:
    known = {"Ann & Bob <x>": encoded(MAN)}
    row = ask(join_turns(*TURNS), num_speakers=2, known_speakers=known, diarize=False)
    accepts = [
        JSON,
        {"Accept": "text/plain"},
        {"Accept": "text/vtt"},
        {"Accept": "application/x-subrip"},
    ]
    model = load_model("emformer_asr")
    content, text, vtt, srt = (each.answer for each in model.answer([row] * 4, accepts))
    assert [who for who, _ in turns_of(content)] == ["Speaker 1", "Ann & Bob <x>"] * 2
    assert text.splitlines()[1] == f"Ann & Bob <x>: {TEXTS[1]}"
    assert f"\n<v Speaker 1>{TEXTS[0]}\n" in vtt
    assert f"\n<v Ann   Bob  x >{TEXTS[1]}\n" in vtt
    assert f"\nAnn & Bob <x>: {TEXTS[1]}\n" in srt


def test_data_url_is_a_known_speaker_too(load_model: LoadModel) -> None:
    known = {"Bob": f"data:audio/wav;base64,{encoded(MAN)}"}
    row = {"body": {"data": base64.b64encode(join_turns(MAN)).decode(), "known_speakers": known}}
    (reply,) = load_model("emformer_asr").answer([row], [JSON])
    assert {word["speaker"] for word in reply.answer["words"]} == {"Bob"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"diarize": "perhaps"}, "diarize"),
    ({"num_speakers": 0}, "num_speakers"),
    ({"num_speakers": 21}, "num_speakers"),
    ({"num_speakers": 2, "diarize": False}, "num_speakers to be absent without diarize"),
    ({"known_speakers": [1]}, "known_speakers to be an object"),
    ({"known_speakers": {"Ann": 5}}, "known_speakers to be recordings in base64"),
    ({"known_speakers": {"Ann": "%%%"}}, "known_speakers to be recordings in base64"),
    ({"known_speakers": {" ": ""}}, "known_speakers to be names of 1 to 100 characters"),
    ({"known_speakers": {"Ann\n\n00:00": ""}}, "names of 1 to 100 characters in one line"),
    ({"known_speakers": {"\udfff\ud800": ""}}, "names of 1 to 100 characters in one line"),
    ({"known_speakers": {str(n): "" for n in range(21)}}, "known_speakers to be at most 20 names"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_its_field(
    fields: dict[str, Any], message: str, load_model: LoadModel
) -> None:
    recording = join_turns(MAN)
    bad, good = load_model("emformer_asr").answer([ask(recording, **fields), ask(recording)])
    assert (bad.status, good.status) == (422, 200)
    assert message in bad.answer["message"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"no recording at all", 415, "Expected a recording in known_speakers (WAV, "),
        (join_turns(MAN)[:44], 400, "Expected audio in known_speakers, got a file of 0 samples."),
        (join_turns(*TURNS * 4), 413, "Expected at most 30 s of audio in known_speakers, got "),
    ],
)
def test_known_speaker_that_is_no_recording_is_refused_by_its_field(
    content: bytes, status: int, said: str, load_model: LoadModel
) -> None:
    known = {"Ann": base64.b64encode(content).decode()}
    (reply,) = load_model("emformer_asr").answer([ask(join_turns(MAN), known_speakers=known)])
    assert reply.status == status
    assert reply.answer["message"].startswith(said)


def test_known_speaker_who_is_too_short_is_refused(load_model: LoadModel) -> None:
    short = base64.b64encode(write_wav(read_turns()[MAN][1][:2000])).decode()
    row = ask(join_turns(MAN), known_speakers={"Ann": short})
    (reply,) = load_model("emformer_asr").answer([row])
    assert reply.status == 422
    assert "voices can be heard" in reply.answer["message"]


@pytest.mark.parametrize("name", MODELS)
def test_neither_streams_nor_explanations_have_speakers(name: str, load_model: LoadModel) -> None:
    row = ask(join_turns(MAN))
    model = load_model(name)
    (streamed,) = model.answer([row], [{"Accept": "application/x-ndjson"}])
    (explained,) = model.answer([row], [{"explain": "True"}])
    for reply in (streamed, explained):
        assert reply.status == 422
        assert "whole transcript" in reply.answer["message"]


BuildPlain = Callable[[], LocalModel]


@pytest.fixture
def build_plain(tmp_path: Path) -> BuildPlain:
    def build() -> LocalModel:
        config = read_configs()["wav2vec2"]
        source = ROOT / config.source
        archive = build_with_settings(config, source, tmp_path, speaker_model=None)
        assert not (archive / "voices").exists()
        return load_archive(archive)

    return build


def test_archive_without_a_model_of_voices_says_so(build_plain: BuildPlain) -> None:
    model = build_plain()
    (reply,) = model.answer([ask(join_turns(MAN))])
    assert reply.status == 422
    assert "speaker_model" in reply.answer["message"]


def test_model_says_that_it_tells_speakers_apart(
    load_model: LoadModel, build_plain: BuildPlain
) -> None:
    def told(model: LocalModel) -> Any:
        return model.handler.mode.description["speakers"]

    assert (told(load_model("wav2vec2")), told(build_plain())) == (True, False)
