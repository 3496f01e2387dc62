"""Models of the hub: what is downloaded of them, and what is built where the hub is away."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from build_archives import main
from repository import ROOT
from support.audio_models import write_processor_with_lm
from support.hub import MODEL, Hub, run_hub, use_cache

TEXT = "bert_seq_classification"
# What a repository may hold besides, and no archive needs.
UNUSED = {
    "tf_model.h5": b"weights",
    "pytorch_model.bin": b"weights",
    "openvino/openvino_model_qint8_quantized.bin": b"weights",
    "adapter.fra.safetensors": b"weights",
}
# A model of KenLM looks like this.
LANGUAGE_MODEL = {
    "language_model/5gram.bin": b"mmap lm http://kheafield.com/code format version 5\n",
    "language_model/attrs.json": b'{"alpha": 0.5, "beta": 1.5}',
    "language_model/unigrams.txt": b"TURN\nON\n",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_with_language_model(folder: Path) -> dict[str, bytes]:
    """Return the files of a model and its processor, which has a language model."""
    demo = ROOT / "demo_models" / "wav2vec2"
    write_processor_with_lm(folder, demo)
    model = {name: (demo / name).read_bytes() for name in ("config.json", "model.safetensors")}
    return {**model, **files_of(folder), **LANGUAGE_MODEL}


def build(name: str, store: Path) -> int:
    return main([name, "--source", MODEL, "--model-store", str(store), "--format", "no-archive"])


def test_model_of_the_cache_is_built_again_where_the_hub_is_away(tmp_path: Path) -> None:
    files = files_of(ROOT / "demo_models" / TEXT)
    hub, store, cache = Hub({**files, **UNUSED}), tmp_path / "store", tmp_path / "cache"
    with run_hub(hub, cache):
        assert build(TEXT, store) == 0
    assert hub.asked == set(files)
    built = load_file(store / TEXT / "model.safetensors")
    shutil.rmtree(store)
    with use_cache(cache):
        assert build(TEXT, store) == 0
    again = load_file(store / TEXT / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in built.items())


def test_model_of_which_the_hub_gave_a_part_is_not_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its names of labels are missing, without which an archive would answer with others."""
    names = {"index_to_name.json": b'{"0": "Bad", "1": "Good"}'}
    hub = Hub(files_of(ROOT / "demo_models" / TEXT) | names, broken=set(names))
    with run_hub(hub, tmp_path / "cache"):
        assert build(TEXT, tmp_path) == 1
        assert "neither a local folder nor a model that could be reached" in capsys.readouterr().err
        hub.broken.clear()
        assert build(TEXT, tmp_path) == 0
    assert json.loads((tmp_path / TEXT / "index_to_name.json").read_text())["1"] == "Good"


def test_language_model_of_the_hub_is_brought_along(tmp_path: Path) -> None:
    files = write_with_language_model(tmp_path / "processor")
    hub, store = Hub({**files, **UNUSED}), tmp_path / "store"
    with run_hub(hub, tmp_path / "cache"):
        assert build("wav2vec2", store) == 0
    assert hub.asked == set(files)
    archive = store / "wav2vec2"
    assert (archive / "5gram.bin").read_bytes() == LANGUAGE_MODEL["language_model/5gram.bin"]
    assert json.loads((archive / "language_model.json").read_text())["lm"] == "5gram.bin"
    assert (archive / "lexicon.txt").read_text() == "TURN T U R N |\nON O N |\n"


def test_language_model_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_with_language_model(tmp_path / "processor")
    del files["language_model/5gram.bin"]
    with run_hub(Hub(files), tmp_path / "cache"):
        assert build("wav2vec2", tmp_path / "store") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: wav2vec2: Expected a language model, *.arpa, *.bin, *.binary")
    assert said.count("\n") == 1
