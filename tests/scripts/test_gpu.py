"""`make gpu DEVICE=cpu`: all that a GPU is asked to prove runs here, small, and notices faults."""

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu import __main__ as command
from gpu.__main__ import SECTIONS, main, run
from gpu.parity import answers, decide_alike, decisions, distance
from gpu.plan import Plan, Result
from gpu.timing import power
from support.common import LoadModel

CPU = Plan(torch.device("cpu"))


def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    found = defaultdict(list)
    for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[2:]:
        section, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        found[section].append(rest)
    assert list(found) == list(SECTIONS)
    judged = {section for section, rows in found.items() if any(row[3] for row in rows)}
    assert judged == {"parity", "memory", "archives", "workers", "tests"}
    assert all(row[3] in ("", "yes") for rows in found.values() for row in rows)
    # Each figure is one.
    assert all(float(row[1]) > 0 for row in found["speech"] if "factor" in row[0])


def test_what_a_section_raises_is_a_row_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_plan: Plan) -> Iterator[Result]:
        yield Result("first", "1")
        raise RuntimeError("no | more\nlines")

    monkeypatch.setattr(command, "SECTIONS", {"one": fails, "two": SECTIONS["machine"]})
    rows = run(CPU, ["one", "two"], tmp_path / "table.md")
    assert rows[1] == ("one", "the section ended early", "RuntimeError: no / more", "", "NO")
    assert rows[-1][:2] == ("two", "seconds")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("\n") == 2 + len(rows)


def test_a_gpu_is_asked_for_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--device", "cuda:99"])
    assert "expected a GPU that PyTorch can use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"text": "a", "score": 0.5}, {"text": "a", "score": 0.25}, 0.25),
        ([1.0, 300.0], [1.0, 330.0], 0.1),
        ({"text": "a"}, {"text": "b"}, math.inf),
        ([1.0], [1.0, 1.0], math.inf),
        ({"start": 1}, {"start": 2}, math.inf),
        ({"start": 1}, {"end": 1}, math.inf),
    ],
)
def test_numbers_may_differ_and_nothing_else(one: object, other: object, expected: float) -> None:
    assert distance(one, other) == pytest.approx(expected)


def test_power_is_what_the_driver_tells_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "nvidia-smi"
    told.write_text("#!/bin/sh\necho 100.5; echo '[N/A]'; echo 300; exec sleep 60\n")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with power(Plan(torch.device("cuda"))) as watts:
        time.sleep(0.5)
    assert watts == [100.5, 300.0]
    with pytest.raises(ZeroDivisionError), power(Plan(torch.device("cuda"))):
        _ = 1 / 0
    with power(CPU) as watts:
        pass
    assert watts == []


def test_decisions_are_all_but_numbers_with_a_point() -> None:
    answer = [{"word": "Ann", "start": 3, "score": 0.5}, [0.1, "x"]]
    assert decisions(answer) == [{"word": "Ann", "start": 3}, ["x"]]


def test_labels_that_are_as_probable_are_one_decision() -> None:
    def rank(**scores: float) -> list[dict[str, Any]]:
        return [{"label": label, "score": score} for label, score in scores.items()]

    exact = rank(a=0.34, b=0.33, c=0.2)
    assert decide_alike(exact, rank(b=0.335, a=0.335, c=0.2))
    assert decide_alike(exact, rank(a=0.34, c=0.3, b=0.3))
    assert not decide_alike(exact, rank(c=0.35, a=0.34, b=0.33))
    assert not decide_alike(exact, rank(d=0.35, a=0.34, b=0.33))
    assert decide_alike([], [])
    assert not decide_alike({"text": "a"}, {"text": "b"})


def test_an_error_is_no_answer_to_compare(load_model: LoadModel) -> None:
    with pytest.raises(RuntimeError, match="expected an answer, got 400"):
        answers(load_model("bert_seq_classification"), [{"body": {"inputs": ""}}])
