"""Jobs as users start them, on a Ray of their own: killed, gone on with, and compared."""

import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bulk.command import main, parse_arguments
from bulk.workflow import open_job
from speechtext.speech.audio import decode_audio
from support.archives import write_archive
from support.recordings import RATE_HZ, transcribe_alone
from trials.bulk_runs import finish, kill_one, read_output, start, write_recordings

# Ends its process with some texts, as a fault in a library would.
DEADLY = """
import json, os


class Handler:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [json.dumps({"kind": "sequence_classification"})]
        texts = [row["body"]["inputs"] for row in data]
        if any(text.startswith("deadly") for text in texts):
            os._exit(1)
        return [json.dumps(text.upper()) for text in texts]
"""


def wait_for_parts(output: Path, count: int) -> None:
    deadline_s = time.monotonic() + 120
    while len(list(output.glob("part-*"))) < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_job_that_is_killed_and_goes_on_has_each_input_once(
    model_store: Path, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 140, long_s=[70.0])
    options = ("--workers", "2", "--cut-minutes", "0.5", "--archive", f"{model_store}/wav2vec2.mar")
    process = start("transcribe", source, output, *options)
    wait_for_parts(output, 1)
    assert kill_one(process, "everything", random.Random(1))
    assert finish(process) != 0
    written = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert finish(start("transcribe", source, output, *options)) == 0
    for name, time_ns in written.items():
        assert (output / name).stat().st_mtime_ns == time_ns, "was recognised again"
    found = read_output(output)
    rows = {row["id"]: row for row in found}
    assert len(rows) == len(found)
    recordings = {str(path.relative_to(source)): path for path in source.rglob("*.wav")}
    assert sorted(rows) == sorted(recordings)
    damaged = [f"{number % 16:02}/{number:05}.wav" for number in (50,)]
    assert sorted(damaged) == sorted(name for name, row in rows.items() if row["error"])
    heard = {name: row["text"] for name, row in rows.items() if name not in damaged}
    assert heard == transcribe_alone(unpacked("wav2vec2"), source)


def test_texts_with_which_workers_die_are_rows_with_an_error(tmp_path: Path) -> None:
    # A worker has more threads than this machine has cores, which it shares.
    cores = {"cpus": (os.cpu_count() or 1) + 0.5}
    folder = write_archive(tmp_path / "deadly", DEADLY, cluster=cores).folder
    texts = [f"text {number}" for number in range(70)]
    texts[40] = texts[69] = "deadly"
    table, output = tmp_path / "texts.jsonl", tmp_path / "out"
    table.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    process = start("annotate", table, output, "--archive", str(folder), "--format", "jsonl")
    assert finish(process) == 0
    rows = read_output(output)
    assert len(rows) == len(texts)
    for row in rows:
        text = texts[int(row["id"].rpartition(":")[2])]
        kind = row["error"] and row["error"]["kind"]
        assert (row["answer"], kind) == (
            (None, "WorkerDied") if text == "deadly" else (json.dumps(text.upper()), None)
        )
    summary = json.loads((output / "_job" / "summary.json").read_text())
    assert (summary["inputs"], summary["answered"]) == (70, 70)
    assert summary["errors"] == {"WorkerDied": 2}


@pytest.mark.parametrize(
    ("load", "gpus", "expected"),
    [
        ("raise OSError('No such file: words.txt')", 0, "No such file: words.txt"),
        (
            "os._exit(1)",
            0,
            "Expected workers to load the archive; 3 in a row died while they loaded",
        ),
        # Of machines that this one is not.
        ("pass", 99, "Expected a machine with 1 CPU, 99 GPU for a worker, not this one."),
    ],
)
def test_archive_that_cannot_be_loaded_ends_the_job_in_a_sentence(
    load: str, gpus: int, expected: str, tmp_path: Path
) -> None:
    broken = DEADLY.replace("self.initialized = True", load)
    folder = write_archive(tmp_path / "broken", broken, cluster={"gpus": gpus}).folder
    (tmp_path / "texts.csv").write_text("text\nx\n")
    process = start("annotate", tmp_path / "texts.csv", tmp_path / "out", "--archive", str(folder))
    assert finish(process) == 1
    said = (tmp_path / "out.log").read_text().splitlines()
    assert said[-1].startswith(f"error: {expected}")
    assert "Traceback" not in said


def test_dry_run_says_how_much_there_is_and_writes_nothing(
    model_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recordings(tmp_path / "in", 40)
    archive = f"{model_store}/wav2vec2.mar"
    process = start(
        "transcribe", tmp_path / "in", tmp_path / "out", "--dry-run", "--archive", archive
    )
    assert finish(process) == 0
    said = (tmp_path / "out.log").read_text()
    assert "40 inputs" in said
    total_s = sum(
        len(decode_audio(path.read_bytes(), RATE_HZ, 3600)) / RATE_HZ
        for path in (tmp_path / "in").rglob("*.wav")
        if path.name != "00050.wav"
    )
    (hours,) = re.findall(r"about ([\d.]+) hours of audio", said)
    assert float(hours) == pytest.approx(total_s / 3600, abs=0.011)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transcribe", "--in", "", "--out", "x"], "expected a path or an address, got nothing"),
        (["transcribe", "--in", "x", "--out", "y", "--workers", "many"], "how many"),
        (["transcribe", "--in", "x", "--out", "y", "--cut-minutes", "0"], "in minutes above 0"),
        (["annotate", "--in", "x", "--out", "y", "--parameters", "{"], "invalid loads value"),
        (["annotate", "--in", "x", "--out", "y", "--columns", "question"], "question=column"),
    ],
)
def test_command_lines_that_cannot_be(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert said in capsys.readouterr().err


def test_run_beside_another_of_the_same_job_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_archive(tmp_path / "deadly", DEADLY).folder
    (tmp_path / "texts.csv").write_text("text\nx\n")
    words = ["annotate", "--in", str(tmp_path / "texts.csv"), "--out", str(tmp_path / "out")]
    words += ["--archive", str(folder)]
    job, _ = open_job(parse_arguments(words))
    with job.alone():
        assert main(words) == 1
    assert "another run of this job is under way." in capsys.readouterr().err
    assert job.work.names() == ["lock"]


def test_missing_archive_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--in", str(tmp_path), "--out", str(tmp_path / "out"), "--archive", "no.mar"]
    assert main(["transcribe", *words]) == 1
    assert re.fullmatch(r"error: .*no.mar: expected an archive; .*\n", capsys.readouterr().err)
