"""Archives that are packaged by hand, with the manual's commands, answer."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torchaudio
from safetensors.torch import load_file

from archives.emformer import load_emformer
from benchmarks.full_size_models import write_processor
from repository import ROOT
from serving.local import load_archive
from support.common import EXAMPLES
from support.pages import PAGES

PACKAGING = re.findall(
    r"^torch-model-archiver (?:.*\\\n)*.*$", PAGES["docs/archives.md"], re.MULTILINE
)
MODES = ["bert_seq_classification", "emformer_asr", "wav2vec2"]


@pytest.fixture(scope="module")
def packaged_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the manual's packaging commands in a folder with the files that they name."""
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
