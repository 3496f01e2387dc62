"""The README's commands do what it says."""

import doctest
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from safetensors.torch import load_file

from archives.emformer import load_emformer
from benchmarks.full_size_models import write_processor
from repository import ROOT
from serving.local import load_archive
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.rnnt.recognizer import EmformerSettings
from speechtext.text.settings import TextSettings
from support.common import EXAMPLES

README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVED_AT = "http://127.0.0.1:8080"
# A command after "$ ", continued by backslashes, and what it prints, up to the next or the end.
EXCHANGE = re.compile(r"^\$ (curl (?:.*\\\n)*.*)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)
CONSOLES = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXCHANGES = EXCHANGE.findall("```\n".join(CONSOLES) + "```\n")
PACKAGING = re.findall(r"^torch-model-archiver (?:.*\\\n)*.*$", README, re.MULTILINE)
MODES = ["bert_seq_classification", "emformer_asr", "wav2vec2"]


def without_space(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(("command", "printed"), EXCHANGES)
def test_curl_commands_print_what_the_readme_shows(
    command: str, printed: str, inference_url: str, tmp_path: Path
) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    result = subprocess.run(  # noqa: S602 - the README's commands are for a shell
        command.replace(SERVED_AT, inference_url).replace("curl ", "curl -s ", 1),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    # "..." stands for what is left out.
    parts = [re.escape(part) for part in without_space(printed).split("...")]
    assert re.fullmatch(".*".join(parts), without_space(result.stdout)), result.stdout


def test_python_examples_print_what_the_readme_shows(inference_url: str) -> None:
    examples = re.findall(r"^```pycon\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert examples
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in examples:
        source = example.replace(SERVED_AT, inference_url)
        runner.run(parser.get_doctest(source, {}, "README", "README.md", 0))
    assert runner.summarize().failed == 0


def test_readme_shows_every_archive() -> None:
    shown = " ".join(command for command, _ in EXCHANGES)
    assert all(f"/predictions/{path.name}" in shown for path in (ROOT / "demo_models").iterdir())
    assert "/explanations/" in shown


def test_readme_names_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets


@pytest.mark.parametrize("settings_class", [Wav2Vec2Settings, EmformerSettings, TextSettings])
def test_every_setting_is_in_the_readme(settings_class: Any) -> None:
    rows = " ".join(re.findall(r"^\| (`[a-zA-Z_`, ]+`) \|", README, re.MULTILINE))
    for field in fields(settings_class):
        assert f"`{field.name}`" in rows


def test_every_setting_of_wav2vec2_is_in_its_yaml() -> None:
    yaml = (ROOT / "model_configs" / "wav2vec2.yaml").read_text()
    for field in fields(Wav2Vec2Settings):
        assert re.search(rf"^  (# )?{field.name}: ", yaml, re.MULTILINE), field.name


@pytest.fixture(scope="module")
def packaged_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the README's packaging commands in a folder with the files that they name."""
    folder = tmp_path_factory.mktemp("by-hand")
    (folder / "handlers").symlink_to(ROOT / "handlers")
    (folder / "model_store").mkdir()
    write_pickled("wav2vec2", folder / "model")
    write_processor(folder / "model")
    write_pickled("bert_seq_classification", folder / "Transformer_model")
    (folder / "Transformer_model" / "index_to_name.json").rename(folder / "index_to_name.json")
    shutil.copy(
        ROOT / "model_configs" / "bert_seq_classification.yaml", folder / "model-config.yaml"
    )
    write_beam_search(ROOT / "demo_models" / "emformer_asr", folder)
    # The archiver deletes the folder of the model's name in the temporary folder.
    temporary = tmp_path_factory.mktemp("archiver")
    for command in PACKAGING:
        variables = f"PATH={Path(sys.executable).parent}:$PATH TMPDIR={temporary}"
        subprocess.run(f"{variables} {command}", shell=True, cwd=folder, check=True)  # noqa: S602
    return folder


def write_beam_search(source: Path, folder: Path) -> None:
    """Write an Emformer RNN-T as the common example does."""
    model = load_emformer(source)
    search = torchaudio.models.RNNTBeamSearch(model, model.joiner.linear.out_features - 1)
    torch.jit.script(search).save(str(folder / "emformer_rnnt.pt"))
    for name in ("global_stats.json", "spm.model"):
        shutil.copy(source / name, folder)


def write_pickled(name: str, folder: Path) -> None:
    """Write a demo model as checkpoints often come: float32 weights, pickled."""
    shutil.copytree(ROOT / "demo_models" / name, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({key: value.float() for key, value in weights.items()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("name", MODES)
def test_archives_packaged_by_hand_answer(
    name: str, packaged_by_hand: Path, tmp_path: Path
) -> None:
    path = next(packaged_by_hand.rglob(f"{name}.mar"))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    text = name.startswith("bert")
    example = "review_accepted.txt" if text else "turn_on_the_kitchen_lights.wav"
    reply = load_archive(tmp_path).answer([{"body": (EXAMPLES / example).read_bytes()}])[0]
    assert reply.answer.lower() == ("accepted" if text else "turn on the kitchen lights")
