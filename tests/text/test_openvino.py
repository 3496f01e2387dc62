"""Text models that OpenVINO runs: as PyTorch runs them, in int8 too."""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from archives.configs import read_configs
from archives.errors import SourceError
from archives.text import stage_text
from benchmarks.random_text_models import write_line, write_random_model
from demo_models.catalogue import TEXT_MODELS
from repository import ROOT
from speechtext.cpu.openvino_network import compile_openvino
from speechtext.text.loading import CompileSettings
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.common import lines
from support.openvino import answers, load

UNDERSTANDING = ["bert_seq_classification", "bert_token_classification", "bert_question_answering"]
INT8 = {"quantization": "int8_static", "dtype": "auto"}
LENGTHS = (1, 2, 15, 16, 17, 63, 150, 333, 510)


def write_calibration(path: Path, payloads: Sequence[Any]) -> str:
    """Write requests, one a line; return the path."""
    path.write_text("".join(f"{json.dumps(each)}\n" for each in payloads), encoding="utf-8")
    return str(path)


def test_wide_model_says_what_transformers_says_at_every_length(tmp_path: Path) -> None:
    """Two of BERT's twelve layers, each as wide as those that are published."""
    layers = {"num_hidden_layers": 2}
    source = write_random_model(
        tmp_path / "source", "bert", "sequence_classification", tiny=False, **layers
    )
    task = load(source, tmp_path / "model", max_length=512).task
    network = AutoModelForSequenceClassification.from_pretrained(source).eval()
    for length in LENGTHS:
        ids = torch.randint(5, network.config.vocab_size, (3, length))
        mask = torch.ones_like(ids)
        mask[1, length // 2 + 1 :] = 0
        with torch.no_grad():
            expected = network(ids, mask, torch.zeros_like(ids)).logits
        (found,) = task.model.network(
            input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("archive", UNDERSTANDING)
def test_int8_answers_as_well_as_float32(archive: str, tmp_path: Path) -> None:
    source, world = ROOT / "demo_models" / archive, TEXT_MODELS[archive]
    settings = {"mode": read_configs()[archive].handler_settings["mode"], "max_length": 150}
    exact = TextPredictor.load(source, TextSettings(**settings))
    shown = [each.payload for each in world.held_out(100, seed=8)]
    int8 = {**INT8, "calibration": write_calibration(tmp_path / "requests.jsonl", shown)}
    quantized = load(source, tmp_path / "model", **int8, **settings)
    examples = world.held_out(500, seed=3)
    payloads = [each.payload for each in examples]
    exact_scores = world.score(answers(exact, payloads), examples)
    for name, found in world.score(answers(quantized, payloads), examples).items():
        assert found >= exact_scores[name] - 0.3, name


def test_int8_answer_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "source", "bert", "sequence_classification")
    calibration = write_calibration(tmp_path / "requests.jsonl", lines(20, seed=1))
    int8 = {**INT8, "dtype": "float32", "calibration": calibration}
    predictor = load(source, tmp_path / "model", **int8)
    ask = {"parameters": {"top_k": None, "function_to_apply": "none"}}
    rows = [
        {"inputs": text, **ask} for text in [*lines(100), "a", write_line(random.Random(1), 100)]
    ]
    together = answers(predictor, rows)
    for row, beside in zip(rows, together, strict=True):
        ((alone),) = answers(predictor, [row])
        for one, other in zip(alone, beside, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_what_is_missing_or_damaged_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_random_model(tmp_path / "source", "bert", "sequence_classification")
    folder = tmp_path / "model"
    predictor = load(source, folder)
    assert {"model.xml", "model.bin"} < {path.name for path in folder.iterdir()}
    settings = TextSettings(save_mode="openvino")
    with pytest.raises(ValueError, match=r"^pt2\.compile\.enable: expected false with save_mode"):
        TextPredictor.load(
            folder, settings, compile_settings=CompileSettings(True), file="model.xml"
        )
    assert predictor.task.model.network.input_names
    (folder / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^model\.xml: expected a file of OpenVINO's, got a dam"):
        compile_openvino(folder / "model.xml", torch.float32)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"^handler\.save_mode: expected the package openvino"):
        compile_openvino(folder / "model.xml", torch.float32)
    with pytest.raises(SourceError, match=r"make openvino installs it"):
        stage_text(str(source), folder, {"save_mode": "openvino"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"^handler\.calibration: expected a file of requests with int8_static\.$"),
        ("", r"^requests\.jsonl: expected requests, one a line, got none\.$"),
        ('"a text"\n{"question": 1}\n', r"^requests\.jsonl, line 2: "),
    ],
)
def test_calibration_that_is_none_is_told(content: str | None, said: str, tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "source", "bert", "sequence_classification")
    path = tmp_path / "requests.jsonl"
    path.write_text(content or "", encoding="utf-8")
    calibration = None if content is None else str(path)
    with pytest.raises(SourceError, match=said):
        load(source, tmp_path / "model", **INT8, calibration=calibration)
    with pytest.raises(SourceError, match=r"^handler\.calibration: expected a file, got nothing"):
        load(source, tmp_path / "other", **INT8, calibration="nothing.jsonl")
