"""What workers do with groups: rows as TorchServe's answers, stretches as the whole."""

import io
import itertools
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bulk.archive_runner import ArchiveRunner, unpack_copy
from bulk.errors import JobError, UnanswerableError
from bulk.inputs import RECORDING, TEXT, find_recordings, find_texts
from bulk.job import Answers, Job, digest_archive
from bulk.manifests import Manifests
from bulk.outputs import ANNOTATIONS, TRANSCRIPTS, read_rows
from bulk.planning import pending_groups, plan
from bulk.ray_tasks import cut
from bulk.steps import Tally
from bulk.storage import open_location
from bulk.tries import MOST_LOAD_DEATHS, Tries, loading
from bulk.worker import STEPS
from repository import ROOT
from speechtext.speech.audio import decode_audio
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.subtitles import write_vtt
from support.common import EXAMPLES, LoadModel, answers, assert_alike, lines, pipeline_rows
from support.recordings import RATE_HZ, join_examples, read_samples, write_wav

Load = Callable[[str], tuple[ArchiveRunner, str]]


@pytest.fixture(scope="module")
def load(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function from an archive's name to what runs it, and its digest."""
    loaded: dict[str, tuple[ArchiveRunner, str]] = {}

    def load(name: str) -> tuple[ArchiveRunner, str]:
        if name not in loaded:
            folder = tmp_path_factory.mktemp(name)
            archive = unpack_copy(model_store / f"{name}.mar", folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "path", sys.path[:])
                loaded[name] = ArchiveRunner(archive), digest_archive(archive)
        return loaded[name]

    return load


def make_job(tmp_path: Path, source: Path, load: Load, name: str, **options: Any) -> Job:
    answers = Answers(
        name, "1.0", load(name)[1], options.pop("form", "parquet"), **options.pop("answers", {})
    )
    job = Job(
        open_location(str(source)), open_location(str(tmp_path / "out")), name, answers, **options
    )
    job.begin()
    return job


def do_groups(job: Job, runner: ArchiveRunner, step: str) -> list[Tally]:
    taken = STEPS[step](job, runner, "run")
    return [taken.do(vars(group)) for group, _ in Manifests(job.work).groups()]


def rows_of(job: Job) -> dict[str, dict[str, Any]]:
    rows = [row for name in job.output.names() for row in read_rows(job.output / name)]
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row for row in rows}


def decoded(path: Path) -> torch.Tensor:
    return decode_audio(path.read_bytes(), RATE_HZ, 3600)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_are_the_recognisers_and_damaged_files_are_rows(
    form: str, load: Load, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    shutil.copytree(EXAMPLES, source, ignore=shutil.ignore_patterns("*.txt", "*.json"))
    (source / "noise.mp3").write_bytes(b"no recording")
    (source / "empty.wav").write_bytes(write_wav(np.zeros(0, np.int16)))
    (source / "gone.wav").write_bytes(b"1")
    (source / "grown.wav").write_bytes(b"1")
    job = make_job(tmp_path, source, load, "wav2vec2", form=form, subtitles="vtt")
    plan(job, find_recordings(job.source, 600.0, print), RECORDING, TRANSCRIPTS)
    (source / "gone.wav").unlink()
    (source / "grown.wav").write_bytes(b"12")
    tallies = do_groups(job, load("wav2vec2")[0], "recordings")
    rows = rows_of(job)
    broken = {
        "noise.mp3": "UnsupportedAudio",
        "empty.wav": "EmptyAudio",
        "gone.wav": "FileNotFound",
        "grown.wav": "FileChanged",
    }
    assert {name: row["error"]["kind"] for name, row in rows.items() if row["error"]} == broken
    assert all(row["error"]["message"].count(".") for row in rows.values() if row["error"])
    names = sorted(set(rows) - set(broken))
    assert len(names) == len(list(EXAMPLES.rglob("*.wav")))
    recognizer = Wav2Vec2Recognizer.load(unpacked("wav2vec2"))
    for name in names:
        (expected,) = recognizer.transcribe([decoded(source / name)])
        found = rows[name]
        assert found["text"] == expected.text
        assert found["duration"] == pytest.approx(expected.duration_s, abs=1e-3)
        for word, other in zip(found["words"], expected.words, strict=True):
            assert (word["word"], word["start"]) == (
                other.text,
                pytest.approx(other.start_s, abs=1e-3),
            )
            assert word["confidence"] == pytest.approx(other.confidence, abs=1e-3)
        assert found["model_digest"] == load("wav2vec2")[1]
        assert found["seconds"] > 0
        # Times of words are rounded to milliseconds in both.
        assert (source / f"{name}.vtt").read_text() == write_vtt(expected)
    (tally,) = tallies
    assert (tally.rows, tally.errors.total()) == (len(rows), len(broken))
    assert tally.audio_s == pytest.approx(sum(rows[name]["duration"] for name in names))
    assert (job.work / "tries").names() == []


def test_stretches_of_a_long_recording_are_the_whole(
    load: Load, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "long.wav").write_bytes(join_examples(4))
    (source / "short.wav").write_bytes(join_examples())
    (source / "lost.wav").write_bytes(join_examples(3))
    # Its size says hours.
    flac = io.BytesIO()
    soundfile.write(
        flac, read_samples(EXAMPLES / "turn_on_the_kitchen_lights.wav"), 16_000, format="FLAC"
    )
    (source / "odd.flac").write_bytes(flac.getvalue())
    job = make_job(tmp_path, source, load, "wav2vec2", cut_s=45.0)
    inputs = [
        {**each, "stretches": 9 if each["id"] == "odd.flac" else each["stretches"]}
        for each in find_recordings(job.source, job.cut_s, print)
    ]
    plan(job, inputs, RECORDING, TRANSCRIPTS)
    (source / "lost.wav").unlink()
    step = STEPS["recordings"](job, load("wav2vec2")[0], "run")
    groups = pending_groups(job)
    assert sorted(max(stretches) for _, stretches in groups) == [1, 2, 3, 9]
    # In any order, as workers are; and the first ones again, as after a kill.
    tasks = [task for group, stretches in groups for task in cut(job, group, stretches, set())]
    random.Random(1).shuffle(tasks)
    for task in tasks[:5] + tasks:
        step.do(task)
    assert pending_groups(job) == []
    assert job.stretches.names() == []
    rows = rows_of(job)
    assert rows["lost.wav"]["error"]["kind"] == "FileNotFound"
    assert rows["odd.flac"]["text"] == "TURN ON THE KITCHEN LIGHTS"
    (whole,) = Wav2Vec2Recognizer.load(unpacked("wav2vec2")).transcribe(
        [decoded(source / "long.wav")]
    )
    assert rows["long.wav"]["text"] == whole.text
    assert rows["long.wav"]["duration"] == pytest.approx(whole.duration_s, abs=1e-3)
    assert [(word["word"], word["start"], word["end"]) for word in rows["long.wav"]["words"]] == [
        (word.text, pytest.approx(word.start_s, abs=1e-3), pytest.approx(word.end_s, abs=1e-3))
        for word in whole.words
    ]


def test_stretches_that_are_done_are_not_recognised_again(load: Load, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "long.wav").write_bytes(join_examples(4))
    job = make_job(tmp_path, source, load, "wav2vec2", cut_s=45.0)
    plan(job, find_recordings(job.source, job.cut_s, print), RECORDING, TRANSCRIPTS)
    ((group, stretches),) = pending_groups(job)
    step = STEPS["recordings"](job, load("wav2vec2")[0], "run")
    tasks = list(cut(job, group, stretches, set()))
    for task in tasks[:-1]:
        step.do(task)
    done = set(job.stretches.names())
    assert list(cut(job, group, stretches, done)) == tasks[-1:]
    # Killed between the last stretch and the row: whoever comes puts them together.
    job.stretch(group.key, len(tasks) - 1).write(job.stretch(group.key, 0).read())
    done = set(job.stretches.names())
    assert list(cut(job, group, stretches, done)) == tasks[-1:]
    (source / "long.wav").unlink()
    assert step.do(tasks[-1]).rows == 1
    assert rows_of(job)["long.wav"]["error"] is None


def test_model_that_goes_from_start_to_end_takes_the_whole(load: Load, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "long.wav").write_bytes(join_examples())
    job = make_job(tmp_path, source, load, "emformer_asr", cut_s=10.0)
    plan(job, find_recordings(job.source, job.cut_s, print), RECORDING, TRANSCRIPTS)
    ((group, stretches),) = pending_groups(job)
    step = STEPS["recordings"](job, load("emformer_asr")[0], "run")
    tasks = list(cut(job, group, stretches, set()))
    assert len(tasks) > 1
    assert sum(step.do(task).rows for task in tasks) == 1
    assert "kitchen lights" in rows_of(job)["long.wav"]["text"]


@pytest.mark.parametrize("seconds", [1.0, 20.0, 20.02, 47.3, 61.0])
@pytest.mark.parametrize("stretches", [1, 2, 3])
def test_emissions_of_stretches_are_that_of_the_whole(
    seconds: float, stretches: int, load: Load
) -> None:
    recognizer = load("wav2vec2")[0].handler.recognizer
    chance = torch.Generator().manual_seed(round(seconds))
    waveform = 0.1 * torch.randn(int(seconds * RATE_HZ), generator=chance)
    (alignment,) = recognizer.align([waveform])
    count = recognizer.count_chunks(len(waveform))
    bounds = sorted({each * count // stretches for each in range(stretches + 1)})
    parts = [
        recognizer.compute_stretch(waveform, slice(*each)) for each in itertools.pairwise(bounds)
    ]
    torch.testing.assert_close(
        torch.cat(parts).softmax(dim=-1), alignment.probabilities, rtol=0, atol=1e-5
    )


def test_texts_get_what_the_model_says(load: Load, load_model: LoadModel, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    texts: list[Any] = [*lines(40), "", None]
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    job = make_job(
        tmp_path, file, load, "bert_seq_classification", answers={"parameters": {"top_k": 2}}
    )
    plan(job, find_texts(job.source, {}, print), TEXT, ANNOTATIONS)
    do_groups(job, load("bert_seq_classification")[0], "texts")
    rows = rows_of(job)
    assert len(rows) == len(texts)
    for number, kind in ((40, "MissingField"), (41, "InvalidParameter")):
        assert rows[f"texts.jsonl:{number}"]["error"]["kind"] == kind
    model = load_model("bert_seq_classification")
    asked = pipeline_rows(texts[:40], top_k=2)
    for number, expected in enumerate(answers(model, asked)):
        found = json.loads(rows[f"texts.jsonl:{number}"]["answer"])
        assert_alike(found, expected)


def test_continuations_are_the_models(load: Load, tmp_path: Path) -> None:
    name, prompts = "gpt2_text_generation", ["Once upon a time", "Maria Rossi works"]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": each}) + "\n" for each in prompts))
    job = make_job(tmp_path, file, load, name, answers={"parameters": {"max_new_tokens": 5}})
    plan(job, find_texts(job.source, {}, print), TEXT, ANNOTATIONS)
    do_groups(job, load(name)[0], "texts")
    rows = rows_of(job)
    source = ROOT / "demo_models" / name
    tokenizer = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    for number, prompt in enumerate(prompts):
        (tokens,) = model.generate(
            **tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=5
        )
        (answer,) = json.loads(rows[f"texts.jsonl:{number}"]["answer"])
        assert answer == {"generated_text": tokenizer.decode(tokens, skip_special_tokens=True)}


def test_explanations_of_texts(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("question,context\nWho works for Acme?,Maria Rossi works for Acme in Paris.\n")
    name = "bert_question_answering"
    job = make_job(tmp_path, file, load, name, answers={"explain": True})
    plan(job, find_texts(job.source, {}, print), TEXT, ANNOTATIONS)
    do_groups(job, load(name)[0], "texts")
    (row,) = rows_of(job).values()
    explained = json.loads(row["answer"])
    assert {"words", "importances_answer_start", "importances_answer_end"} <= set(explained)
    assert len(explained["words"]) == len(explained["importances_answer_start"])


@pytest.mark.parametrize(
    ("step", "name", "said"),
    [
        (
            "recordings",
            "bert_seq_classification",
            "a model of speech_recognition, got sequence_classification",
        ),
        ("texts", "wav2vec2", "a model of question_answering or .*, got speech_recognition"),
    ],
)
def test_model_of_another_kind_is_refused(
    step: str, name: str, said: str, load: Load, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tmp_path, load, name)
    with pytest.raises(JobError, match=said):
        STEPS[step](job, load(name)[0], "run")


def test_input_with_which_workers_die_is_given_up(tmp_path: Path) -> None:
    folder = open_location(str(tmp_path))
    assert not Tries(folder, "run", "group").again
    # Dies with the group, and with "b" alone, twice.
    for _ in range(2):
        tries = Tries(folder, "run", "group")
        assert tries.again
        tries.begin("a")
        tries.begin("b")
    last = Tries(folder, "run", "group")
    last.begin("a")
    with pytest.raises(UnanswerableError, match="Workers died"):
        last.begin("b")
    # Another run begins anew: whoever ended that one was not the input.
    assert not Tries(folder, "other", "group").again
    last.end()
    assert not Tries(folder, "run", "group").again


def test_workers_that_die_while_they_load_are_given_up(tmp_path: Path) -> None:
    folder, workers = open_location(str(tmp_path)), 2

    def die() -> None:
        # What follows the block is never reached.
        loading(folder, "run", workers).__enter__()

    for _ in range(MOST_LOAD_DEATHS):
        die()
    # Another may be loading it meanwhile.
    die()
    with pytest.raises(JobError, match="3 in a row died"):
        die()
    with loading(folder, "other", workers):
        pass
    # One that is loaded shows that it can be.
    for _ in range(2 * MOST_LOAD_DEATHS):
        die_alone = loading(folder, "third", 1)
        die_alone.__enter__()
        with loading(folder, "third", 1):
            pass


def test_digest_is_that_of_the_content(model_store: Path, tmp_path: Path) -> None:
    archive = model_store / "wav2vec2.mar"
    one = unpack_copy(archive, tmp_path / "one")
    two = unpack_copy(one.folder, tmp_path / "two")
    assert two.folder != one.folder
    assert digest_archive(one) == digest_archive(two)
    manifest = two.folder / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "createdOn": "today"}))
    assert digest_archive(one) == digest_archive(two)
    (two.folder / "vocab.json").write_text("{}")
    assert digest_archive(one) != digest_archive(two)
