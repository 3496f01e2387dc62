"""The inputs of jobs: found, written down in groups, and known again."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from bulk.errors import JobError, UnanswerableError
from bulk.files import read_recording
from bulk.inputs import RECORDING, TEXT, count_stretches, find_recordings, find_texts
from bulk.job import Answers, Job
from bulk.manifests import GROUP_BYTES, GROUP_ROWS, MANIFEST_ROWS, Manifests, cut_groups
from bulk.outputs import TRANSCRIPTS, describe_error, read_rows, write_rows
from bulk.planning import Found, pending_groups, plan
from bulk.ray_tasks import cut
from bulk.steps import Step, Tally
from bulk.storage import open_location
from bulk.workflow import tell_found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job on a folder of three recordings, which nobody reads here."""
    source = tmp_path / "in"
    for name in ("a.wav", "deep/b.mp3", "deep/er/c.FLAC", "notes.txt", ".hidden/d.wav", "_x/e.wav"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    job = Job(
        open_location(str(source)),
        open_location(str(tmp_path / "out")),
        "a.mar",
        Answers("a", "1.0", "0" * 64, "parquet"),
    )
    job.begin()
    return job


def find(job: Job) -> Iterator[Mapping[str, Any]]:
    return iter(find_recordings(job.source, 600.0, lambda path: None))


def answer_pending(job: Job) -> list[str]:
    """Write a row for each input that has none; return their ids."""
    manifests, answered = Manifests(job.work), []
    for group, stretches in pending_groups(job):
        inputs = manifests.read(group)
        assert [each["stretches"] for each in inputs] == stretches
        answered += [each["id"] for each in inputs]
        rows = [{"id": each["id"], "text": str(each["mark"])} for each in inputs]
        write_rows(job.part(group.key), rows, TRANSCRIPTS)
    return sorted(answered)


def plan_recordings(job: Job) -> Found:
    return plan(job, find(job), RECORDING, TRANSCRIPTS)


def texts_of(job: Job) -> dict[str, str]:
    rows = [row for name in job.output.names() for row in read_rows(job.output / name)]
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row["text"] for row in rows}


def test_recordings_of_a_folder_are_found_by_their_endings(job: Job) -> None:
    left_out: list[str] = []
    found = list(find_recordings(job.source, 600.0, left_out.append))
    assert sorted(each["id"] for each in found) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]
    assert left_out == [".txt"]
    for each in found:
        info = Path(each["path"]).stat()
        assert (each["size"], each["mark"]) == (info.st_size, info.st_mtime_ns)


def test_what_is_new_changed_and_gone_is_noticed(job: Job, tmp_path: Path) -> None:
    assert plan(job, find(job), RECORDING, TRANSCRIPTS) == Found(3, 3, 0)
    assert answer_pending(job) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]
    assert plan(job, find(job), RECORDING, TRANSCRIPTS) == Found(3, 0, 0)
    assert answer_pending(job) == []
    before = texts_of(job)
    (tmp_path / "in" / "a.wav").write_bytes(b"longer than before")
    (tmp_path / "in" / "new.ogg").write_bytes(b"1")
    (tmp_path / "in" / "deep" / "b.mp3").unlink()
    assert plan(job, find(job), RECORDING, TRANSCRIPTS) == Found(3, 1, 1)
    # What is gone keeps the row that it has.
    assert sorted(texts_of(job)) == ["deep/b.mp3", "deep/er/c.FLAC"]
    assert answer_pending(job) == ["a.wav", "new.ogg"]
    after = texts_of(job)
    assert sorted(after) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC", "new.ogg"]
    assert after["a.wav"] != before["a.wav"]
    assert after["deep/er/c.FLAC"] == before["deep/er/c.FLAC"]


def test_changed_input_is_answered_once_though_it_was_pending(job: Job, tmp_path: Path) -> None:
    plan(job, find(job), RECORDING, TRANSCRIPTS)
    os.utime(tmp_path / "in" / "a.wav", ns=(1, 1))
    assert plan(job, find(job), RECORDING, TRANSCRIPTS) == Found(3, 0, 1)
    assert answer_pending(job) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]
    assert texts_of(job)["a.wav"] == "1"


def test_changed_input_that_was_alone_leaves_nothing_to_do_behind(job: Job, tmp_path: Path) -> None:
    plan_recordings(job)
    for name in ("a.wav", "deep/b.mp3", "deep/er/c.FLAC"):
        os.utime(tmp_path / "in" / name, ns=(1, 1))
    assert plan_recordings(job) == Found(3, 0, 3)
    for group, stretches in pending_groups(job):
        assert list(cut(job, group, stretches, set()))
    assert answer_pending(job) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]


def test_what_is_gone_before_it_is_answered_is_forgotten(job: Job, tmp_path: Path) -> None:
    plan_recordings(job)
    (tmp_path / "in" / "a.wav").unlink()
    (tmp_path / "in" / "deep" / "b.mp3").rename(tmp_path / "in" / "b.mp3")
    found = plan_recordings(job)
    assert found == Found(2, 1, 0, gone=2)
    assert tell_found(found) == "2 inputs: 1 new, 0 changed; 2 without an answer are gone"
    assert answer_pending(job) == ["b.mp3", "deep/er/c.FLAC"]
    (tmp_path / "in" / "a.wav").write_bytes(b"again")
    assert plan_recordings(job) == Found(3, 1, 0)
    assert answer_pending(job) == ["a.wav"]


def test_ids_that_come_twice_leave_nothing_to_answer(job: Job) -> None:
    def texts(names: Iterable[str]) -> list[Mapping[str, Any]]:
        return [{"id": each, "fields": "", "size": 0, "mark": 0, "stretches": 1} for each in names]

    numbers = list(map(str, range(MANIFEST_ROWS + 1)))
    with pytest.raises(JobError, match="got '0' twice"):
        plan(job, texts([*numbers, "0"]), TEXT, TRANSCRIPTS)
    found = plan(job, texts(["a", "b"]), TEXT, TRANSCRIPTS)
    assert found == Found(2, 2, 0, gone=MANIFEST_ROWS)
    assert answer_pending(job) == ["a", "b"]


@pytest.mark.parametrize("kind", ["FileUnreadable", "FileNotFound", "FileChanged"])
@pytest.mark.parametrize("killed", [False, True])
def test_what_failed_for_its_file_or_machine_is_tried_by_the_next_run(
    kind: str, killed: bool, job: Job
) -> None:
    plan_recordings(job)
    errors = {"a.wav": kind, "deep/b.mp3": "UnsupportedAudio"}
    for group, _ in pending_groups(job):
        rows = [
            {"id": name, **(describe_error(errors[name], "?") if name in errors else {"text": "x"})}
            for name in (each["id"] for each in Manifests(job.work).read(group))
        ]
        WrittenStep(job).write_part(group.key, rows, TRANSCRIPTS)
    assert pending_groups(job) == []
    if killed:
        # The next run took the row out of the output, and no more.
        for part in (job.output / name for name in job.output.names()):
            kept = [row for row in read_rows(part) if row["id"] != "a.wav"]
            write_rows(part, kept, TRANSCRIPTS)
    assert plan_recordings(job) == Found(3, 0, 0, 1)
    assert answer_pending(job) == ["a.wav"]
    assert sorted(texts_of(job)) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]
    assert plan_recordings(job) == Found(3, 0, 0, 0)


class WrittenStep(Step):
    """A step that only writes: it needs no archive."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def do(self, task: Mapping[str, Any]) -> Tally:
        raise NotImplementedError


def test_interrupted_listing_goes_on(job: Job) -> None:
    def interrupted() -> Iterator[Mapping[str, Any]]:
        yield from list(find(job))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan(job, interrupted(), RECORDING, TRANSCRIPTS)
    plan(job, find(job), RECORDING, TRANSCRIPTS)
    assert answer_pending(job) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": Answers("a", "1.0", "1" * 64, "parquet")}, "whose digest is '0000"),
        ({"subtitles": "vtt"}, "whose subtitles is None, not 'vtt'"),
    ],
)
def test_job_with_other_answers_ends_before_it_begins(
    changes: dict[str, Any], said: str, job: Job
) -> None:
    job.begin()
    with pytest.raises(JobError, match=said):
        replace(job, **changes).begin()


@given(st.lists(st.integers(-1, 2 * GROUP_BYTES), max_size=200))
def test_groups_have_all_inputs_once_and_are_small(sizes: list[int]) -> None:
    rows = [
        {"id": str(number), "size": size, "stretches": 3 if size % 7 == 0 else 1}
        for number, size in enumerate(sizes)
    ]
    groups = list(cut_groups(rows))
    assert [row for group in groups for row in group] == rows
    for group in groups:
        assert 1 <= len(group) <= GROUP_ROWS
        assert len(group) == 1 or sum(row["size"] for row in group) <= GROUP_BYTES
        assert len(group) == 1 or all(row["stretches"] == 1 for row in group)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_recordings_of_a_table(form: str, job: Job, tmp_path: Path) -> None:
    paths = [
        "in/a.wav",
        str(tmp_path / "in/deep/b.mp3"),
        (tmp_path / "in/a.wav").as_uri(),
        "no.wav",
    ]
    table = pa.table({"id": ["one", "two", "three", "four"], "audio": paths})
    file = tmp_path / f"table.{form}"
    write_table(table, file)
    found = list(find_recordings(open_location(str(file)), 600.0, lambda path: None))
    assert [each["id"] for each in found] == ["one", "two", "three", "four"]
    assert [each["size"] for each in found] == [5, 10, 5, -1]
    for each in found[:3]:
        assert job.source.resolve(each["path"]).exists()


@pytest.mark.parametrize("path", ["a" * 300 + ".wav", "a\0.wav"])
def test_path_that_no_file_can_have_is_an_input_that_cannot_be_read(
    path: str, job: Job, tmp_path: Path
) -> None:
    file = tmp_path / "table.jsonl"
    file.write_text(json.dumps({"path": path}))
    found = list(find_recordings(open_location(str(file)), 600.0, print))
    assert [(each["id"], each["size"]) for each in found] == [(path, -1)]
    plan(job, found, RECORDING, TRANSCRIPTS)
    with pytest.raises(UnanswerableError) as raised:
        read_recording(job, found[0])
    assert raised.value.kind == "FileUnreadable"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"path": None}, "expected a text in column path, got nothing"),
        ({"audio": {"bytes": "secret", "path": "a.wav"}}, "in column audio, got dict"),
        ({"path": ["secret"]}, "in column path, got list"),
        ({"path": "secret \ud83d"}, "expected Unicode in column path, got half a surrogate pair"),
        (
            {"path": "a.wav", "id": None},
            "expected a text, a number or a date in column id, got nothing",
        ),
        (
            {"text": "a", "id": {"secret": 1}},
            "expected a text, a number or a date in column id, got dict",
        ),
        ({"text": "a", "id": "secret \ud83d"}, "expected Unicode in column id"),
    ],
)
def test_cells_that_are_no_text_are_named_by_their_columns(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "table.jsonl"
    file.write_text(json.dumps(row))
    location = open_location(str(file))
    found = (
        find_texts(location, {}, print)
        if "text" in row
        else find_recordings(location, 600.0, print)
    )
    with pytest.raises(JobError, match=said) as raised:
        list(found)
    assert "secret" not in str(raised.value)


def test_ids_of_databases_are_taken(tmp_path: Path) -> None:
    ids = [Decimal(7), date(2026, 11, 30), UUID(int=1)]
    for number, each in enumerate(ids):
        column = pa.array([each.bytes], pa.uuid()) if isinstance(each, UUID) else pa.array([each])
        parquet.write_table(pa.table({"id": column, "text": ["a"]}), tmp_path / f"{number}.parquet")
    found = [each["id"] for each in find_texts(open_location(str(tmp_path)), {}, print)]
    assert found == list(map(str, ids))


def test_tables_in_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("day=1", "day=2", "."):
        (tmp_path / name).mkdir(exist_ok=True)
        parquet.write_table(pa.table({"text": [name]}), tmp_path / name / "part-0.parquet")
    found = {
        each["id"]: each["fields"] for each in find_texts(open_location(str(tmp_path)), {}, print)
    }
    assert {name: json.loads(fields)["text"] for name, fields in found.items()} == {
        "day=1/part-0.parquet:0": "day=1",
        "day=2/part-0.parquet:0": "day=2",
        "part-0.parquet:0": ".",
    }


def write_table(table: pa.Table, file: Path) -> None:
    if file.suffix == ".parquet":
        parquet.write_table(table, file)
    elif file.suffix == ".csv":
        csv.write_csv(table, file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


def test_csv_is_read_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    rows = {"007": "12", "7": "true", "x": "2026-11-30", "y": "two\nlines", "z": ""}
    file.write_text("id,text\n" + "".join(f'{name},"{text}"\n' for name, text in rows.items()))
    found = find_texts(open_location(str(file)), {}, print)
    assert {each["id"]: json.loads(each["fields"])["text"] for each in found} == rows


def test_csv_may_have_bytes_that_nobody_reads(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_bytes(b"id,text,notes\na,good,caf\xe9\nb,caf\xe9,\n")
    found = [json.loads(each["fields"]) for each in find_texts(open_location(str(file)), {}, print)]
    assert found == [{"text": "good"}, {"text": "caf\ufffd"}]


def test_cell_of_csv_may_be_long(tmp_path: Path) -> None:
    file, text = tmp_path / "texts.csv", "word " * 600_000
    file.write_text(f"text\nshort\n{text}\n" + "short\n" * 3000)
    found = [json.loads(each["fields"]) for each in find_texts(open_location(str(file)), {}, print)]
    assert [each["text"] for each in found] == ["short", text, *["short"] * 3000]


def test_json_lines_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8-sig")
    found = [json.loads(each["fields"]) for each in find_texts(open_location(str(file)), {}, print)]
    assert found == [{"text": "a"}, {"text": "b"}]


def test_output_is_no_input(job: Job, tmp_path: Path) -> None:
    table = pa.table({"text": ["one"]})
    parquet.write_table(table, tmp_path / "in" / "texts.parquet")
    inside = job.source / "out"
    inside.make()
    for name in ("part-00000-00000.parquet", "a.wav"):
        parquet.write_table(pa.table({"answer": ["none"]}), str(tmp_path / "in/out" / name))
    (found,) = find_texts(job.source, {}, print, inside)
    assert json.loads(found["fields"]) == {"text": "one"}
    names = [each["id"] for each in find_recordings(job.source, 600.0, print, inside)]
    assert sorted(names) == ["a.wav", "deep/b.mp3", "deep/er/c.FLAC"]
    with pytest.raises(JobError, match="another folder for the output"):
        list(find_texts(job.source, {}, print, job.source))


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_texts_of_tables(form: str, tmp_path: Path) -> None:
    table = pa.table({"question": ["Who?", "Where?"], "body": ["Ann left.", "In Ä."]})
    file = tmp_path / f"texts.{form}"
    write_table(table, file)
    location, columns = open_location(str(file)), {"question": "question", "context": "body"}
    found = list(find_texts(location, columns, lambda path: None))
    assert [each["id"] for each in found] == [f"texts.{form}:0", f"texts.{form}:1"]
    assert json.loads(found[1]["fields"]) == {"question": "Where?", "context": "In Ä."}
    # By the names of the fields, where none are given.
    (alone,) = {tuple(json.loads(each["fields"])) for each in find_texts(location, {}, print)}
    assert alone == ("question",)
    with pytest.raises(JobError, match=r"expected the column nothing, got question, body"):
        list(find_texts(location, {"text": "nothing"}, print))


def test_text_that_is_changed_is_noticed(tmp_path: Path, job: Job) -> None:
    file = tmp_path / "texts.jsonl"
    for text, found in (
        ("good", Found(1, 1, 0)),
        ("good", Found(1, 0, 0)),
        ("evil", Found(1, 0, 1)),
    ):
        file.write_text(json.dumps({"id": 7, "text": text}))
        inputs = find_texts(open_location(str(file)), {}, print)
        assert plan(job, inputs, TEXT, TRANSCRIPTS) == found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,id\nx,1\ny,1\n", "an id for each input, got '1' twice"),
        (
            "a.csv",
            "words\nx\n",
            "expected a column text or text_pair or question or context, got words",
        ),
        ("a.txt", "text\n", "expected a table as parquet, csv"),
        ("a.parquet", "no Parquet", "expected a table as parquet"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "expected a table as jsonl: maximum recursion"),
    ],
)
def test_tables_that_cannot_be_are_refused(
    name: str, content: str, said: str, job: Job, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError, match=said):
        plan(job, find_texts(open_location(str(tmp_path / name)), {}, print), TEXT, TRANSCRIPTS)


def test_column_of_no_texts_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [date(2026, 11, 30)]}), tmp_path / "dates.parquet")
    with pytest.raises(JobError, match=r"expected texts, got date in text\."):
        list(find_texts(open_location(str(tmp_path / "dates.parquet")), {}, print))


def test_missing_input_is_refused(tmp_path: Path) -> None:
    missing = open_location(str(tmp_path / "missing"))
    for found in (find_recordings(missing, 600.0, print), find_texts(missing, {}, print)):
        with pytest.raises(JobError, match=r"found nothing at .*missing"):
            next(iter(found))


@pytest.mark.parametrize(
    ("path", "size", "stretches"),
    [
        ("a.wav", 32_000 * 600, 1),
        ("a.wav", 32_000 * 601, 2),
        ("a.WAV", 32_000 * 3600, 6),
        ("a/b.mp3", 4_000 * 3600, 6),
        ("a.mp4", 1 << 30, 15),
        ("no-suffix", 1 << 30, 32),
        ("gone.wav", -1, 1),
    ],
)
def test_long_recordings_are_cut_by_their_sizes(path: str, size: int, stretches: int) -> None:
    assert count_stretches(path, size, 600.0) == stretches
