"""Archives with a mistake: each stops the load with one sentence that says what to change."""

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer
from ts.context import Context

from load_errors import check_files_and_explain
from serving.local import load_archive
from support.common import LoadModel

Damage = Callable[[Path], None]
TEXT, WAV2VEC2, EMFORMER = "bert_seq_classification", "wav2vec2", "emformer_asr"
LIVE, GENERATION = "emformer_asr_live", "gpt2_text_generation"


def settings(changes: Any) -> Damage:
    """Return what changes the section `handler` of an archive's YAML."""

    def change(folder: Path) -> None:
        (path,) = folder.glob("*.yaml")
        content = yaml.safe_load(path.read_text())
        if isinstance(changes, Mapping):
            content["handler"] |= changes
        else:
            content["handler"] = changes
        path.write_text(yaml.safe_dump(content))

    return change


def without(*names: str) -> Damage:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def cut(name: str) -> Damage:
    """Return what leaves the first half of a file."""

    def halve(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return halve


def written(name: str, content: bytes) -> Damage:
    """Return what puts something else into a file."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def empty_zip(name: str) -> Damage:
    """Return what replaces a file by a zip file with nothing of PyTorch in it."""

    def replace(folder: Path) -> None:
        with zipfile.ZipFile(folder / name, "w") as file:
            file.writestr("note.txt", "nothing")

    return replace


def other_script(folder: Path) -> None:
    """Replace a TorchScript file by that of another model."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "model.pt"))


def pickled(damage: Damage) -> Damage:
    """Return what makes safetensors a pickle, as archives packaged by hand may have, damaged."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        torch.save(weights, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        path = folder / "MAR-INF" / "MANIFEST.json"
        manifest = json.loads(path.read_text())
        manifest["model"]["serializedFile"] = "pytorch_model.bin"
        path.write_text(json.dumps(manifest))
        damage(folder)

    return change


def bit(name: str) -> Damage:
    """Return what changes the last bit of a file."""

    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return flip


def commented(name: str) -> Damage:
    """Return what adds a comment to a module."""

    def add(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write("# Nothing.\n")

    return add


def made_up_tokenizer(folder: Path) -> None:
    """Replace a tokenizer by what transformers makes up where there is none."""
    (folder / "tokenizer.json").unlink()
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def more_tokens(folder: Path) -> None:
    """Give a tokenizer tokens that its model knows nothing of."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embeddings = AutoConfig.from_pretrained(folder).vocab_size
    tokenizer.add_tokens([f"<{number}>" for number in range(embeddings)])
    tokenizer.save_pretrained(folder)


def vocabulary(change: Callable[[dict[str, int]], dict[str, int]]) -> Damage:
    """Return what changes the tokens of a Wav2Vec2."""

    def write(folder: Path) -> None:
        path = folder / "vocab.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return write


def other_pieces(folder: Path) -> None:
    """Replace the pieces of an Emformer by 25 of another text."""
    words = ["some words that nobody ever said to this model", "and a few more of them"] * 10
    with (folder / "spm.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words), model_writer=file, vocab_size=25, minloglevel=2
        )


def names(content: Mapping[str, Any]) -> Damage:
    """Return what names the labels otherwise."""
    return written("index_to_name.json", json.dumps(content).encode())


def own_names(content: Mapping[str, Any]) -> Damage:
    """Return what names the labels in the model's own configuration only."""

    def change(folder: Path) -> None:
        (folder / "index_to_name.json").unlink()
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": content}))

    return change


@pytest.mark.parametrize(
    ("archive", "damage", "sentence"),
    [
        (
            WAV2VEC2,
            settings({"chunk_lenght_s": 3}),
            "wav2vec2.yaml: handler.chunk_lenght_s: expected one of the keys mode, .*"
            ", chunk_length_s, stride_length_s, .*",
        ),
        (
            LIVE,
            settings({"max_session": 3}),
            "emformer_asr_live.yaml: handler.max_session: expected one of the keys "
            ".*, max_sessions.",
        ),
        (
            EMFORMER,
            settings({"threads": "two"}),
            "emformer_asr.yaml: handler.threads: input should be a valid integer, got 'two'.",
        ),
        (
            TEXT,
            settings({"dtype": "fp16"}),
            f"{TEXT}.yaml: handler.dtype: input should be 'auto', .*'float16', got 'fp16'.",
        ),
        (
            TEXT,
            settings({"mode": "translation"}),
            f"{TEXT}.yaml: handler.mode: expected one of sequence_classification, .*, "
            "got 'translation'.",
        ),
        (
            TEXT,
            settings({"mode": "question_answering"}),
            "Expected a checkpoint fine-tuned for question_answering, got one without qa_outputs.*",
        ),
        (
            TEXT,
            settings({"num_labels": 5}),
            f"{TEXT}.yaml: handler.num_labels: expected 2 as in the model, got 5.",
        ),
        (TEXT, settings([1]), f"{TEXT}.yaml: handler: expected keys and values, got .1.."),
        (
            TEXT,
            without("tokenizer.json"),
            r"Expected a tokenizer \(tokenizer.json, vocab.txt\), got no such file.",
        ),
        (TEXT, without("config.json"), "config.json: expected in the archive, got no file."),
        (
            WAV2VEC2,
            without("model.safetensors"),
            "model.safetensors: expected in the archive, got no file.",
        ),
        (
            WAV2VEC2,
            without("processor_config.json"),
            "preprocessor_config.json or processor_config.json: expected in the archive, .*",
        ),
        (EMFORMER, without("spm.model"), "spm.model: expected in the archive, got no file."),
        (
            WAV2VEC2,
            cut("model.safetensors"),
            "model.safetensors: expected safetensors, got a damaged file: .*",
        ),
        (TEXT, cut("tokenizer.json"), "tokenizer.json: expected JSON, got a damaged file: .*"),
        (EMFORMER, cut("model.pt"), "model.pt: expected TorchScript, got a damaged file."),
        (
            LIVE,
            cut("spm.model"),
            "spm.model: expected a SentencePiece model, got a damaged file.",
        ),
        (
            TEXT,
            pickled(cut("pytorch_model.bin")),
            "pytorch_model.bin: expected pickled weights only, got a damaged file or code.",
        ),
        (
            TEXT,
            pickled(written("pytorch_model.bin", b"junk" * 100)),
            "pytorch_model.bin: expected pickled weights only, got .*",
        ),
        (
            TEXT,
            written("tokenizer.json", b"{}"),
            "tokenizer.json: expected a tokenizer of the tokenizers library, got another file.",
        ),
        (
            TEXT,
            written("tokenizer_config.json", b"[]"),
            "tokenizer_config.json: expected a JSON object, got a list.",
        ),
        (
            WAV2VEC2,
            written("config.json", b"{}"),
            "config.json: expected model_type to be one of .*, wavlm, got 'None'.",
        ),
        (
            WAV2VEC2,
            written("config.json", b'{"model_type": "wav2vec2"}'),
            "config.json: expected the sizes of the weights beside it, got other ones.",
        ),
        (
            GENERATION,
            made_up_tokenizer,
            "Expected a tokenizer with a vocabulary, got one of special tokens only.",
        ),
        (TEXT, made_up_tokenizer, "Expected a tokenizer with a vocabulary, got one of .*"),
        (
            TEXT,
            more_tokens,
            r"Expected a tokenizer with ids below \d+, the model's vocab_size, got one with ids "
            r"up to \d+.",
        ),
        (
            WAV2VEC2,
            vocabulary(lambda tokens: {each: tokens[each] for each in tokens.keys() - {*"XYZ"}}),
            "vocab.json: expected a token for each of the model's 32 labels, got 29 tokens.",
        ),
        (
            WAV2VEC2,
            vocabulary(lambda tokens: tokens | {"É": len(tokens)}),
            "vocab.json: expected ids below 32, as many as the model has labels, got ids up to 32.",
        ),
        (
            EMFORMER,
            other_pieces,
            r"spm.model: expected \d+ pieces, as many as the model has labels, got 25.",
        ),
        (LIVE, other_pieces, r"spm.model: expected \d+ pieces, .*, got 25."),
        (
            TEXT,
            names({"0": "no"}),
            "index_to_name.json: expected names of the labels 0 to 1, got those of 0.",
        ),
        (TEXT, names({}), "index_to_name.json: expected names of the labels 0 to 1, got none."),
        (
            TEXT,
            names({"0": "no", "1": "yes", "2": "perhaps"}),
            "index_to_name.json: expected names of the labels 0 to 1, got those of 0, 1, 2.",
        ),
        (TEXT, names({"0": "no", "2": "yes"}), "index_to_name.json: .*, got those of 0, 2."),
        (TEXT, names({"no": 0, "yes": 1}), "index_to_name.json: .*, got those of no, yes."),
        (
            TEXT,
            names({"0": "no", "1": None}),
            "index_to_name.json: expected a text as the name of label 1, got a NoneType.",
        ),
        (
            TEXT,
            names({"0": [], "1": ["yes"]}),
            "index_to_name.json: expected a text as the name of label 0, got a list.",
        ),
        (
            TEXT,
            own_names({"0": "no", "2": "yes"}),
            "config.json: id2label: expected names of the labels 0 to 1, got those of 0, 2.",
        ),
        (
            TEXT,
            own_names({"0": "no", "1": "yes", "2": "perhaps"}),
            "config.json: expected the sizes of the weights beside it, got other ones.",
        ),
        (
            TEXT,
            bit("model.safetensors"),
            "model.safetensors: expected the file that was archived, of SHA-256 [0-9a-f]{12}, got "
            "another, [0-9a-f]{12}; build the archive again.",
        ),
        (
            WAV2VEC2,
            commented("speechtext/finite.py"),
            "speechtext/finite.py: expected the file that was archived, .*",
        ),
        (
            TEXT,
            without("speechtext/speech/subtitles.py"),
            "speechtext/speech/subtitles.py: expected in the archive, got no file.",
        ),
        (EMFORMER, empty_zip("model.pt"), "model.pt: expected TorchScript, got a damaged file."),
        (EMFORMER, other_script, "model.pt: expected an Emformer RNN-T, got a Linear."),
        (LIVE, other_script, "model.pt: expected an Emformer RNN-T, got a Linear."),
    ],
)
def test_mistake_stops_the_load_with_one_sentence(
    unpacked: Callable[[str], Path], tmp_path: Path, archive: str, damage: Damage, sentence: str
) -> None:
    folder = tmp_path / archive
    shutil.copytree(unpacked(archive), folder)
    damage(folder)
    with pytest.raises(ValueError, match=f"^{sentence}$") as refused:
        load_archive(folder)
    assert type(refused.value).__name__ == "LoadError"


class Hostile:
    """What leaves a file behind where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.proof,))


@pytest.mark.parametrize("archive", [TEXT, WAV2VEC2])
def test_pickled_weights_run_no_code(
    unpacked: Callable[[str], Path], tmp_path: Path, archive: str
) -> None:
    folder = tmp_path / archive
    shutil.copytree(unpacked(archive), folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Hostile(tmp_path / "proof")}, folder / "pytorch_model.bin")
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["model"]["serializedFile"] = "pytorch_model.bin"
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"[Ww]eights.only"):
        load_archive(folder)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"0": ["n01440764", "no"], "1": ["n01443537", "yes"]},
        {"object_type_names": ["no", "yes"]},
        {"label_list": "[no, yes]"},
        {"label_list": ["no", "yes"]},
    ],
)
def test_names_of_torchserves_examples_are_taken(
    unpacked: Callable[[str], Path], tmp_path: Path, content: Mapping[str, Any]
) -> None:
    folder = tmp_path / TEXT
    shutil.copytree(unpacked(TEXT), folder)
    names(content)(folder)
    # As archives are that were packaged by hand.
    (folder / "provenance.json").unlink()
    replies = load_archive(folder).answer([{"body": text} for text in ("Terrible!", "Great!")])
    assert [(each.status, each.answer) for each in replies] == [(200, "no"), (200, "yes")]


def test_whole_archive_still_loads(load_model: LoadModel) -> None:
    assert load_model(TEXT).handler.initialized


def test_memory_that_runs_out_while_loading_is_no_mistake_in_the_archive(tmp_path: Path) -> None:
    class Handler:
        @check_files_and_explain()
        def initialize(self, context: Any) -> None:
            torch.empty(2**50)

    manifest: dict[str, Any] = {"model": {}}
    context = Context("model", tmp_path, manifest, 1, None, "0.12")
    # The class that TorchServe answers with 507.
    with pytest.raises(MemoryError):
        Handler().initialize(context)
