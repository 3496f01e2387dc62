"""Archives: from every source, complete, reproducible, and built only when something changed."""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file
from sentencepiece import SentencePieceTrainer
from transformers import (
    AutoModelForCTC,
    BertConfig,
    BertModel,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    Wav2Vec2Processor,
)

import archives.fingerprint
from archives.building import BuildRecord, build_archive
from archives.configs import choose_configs, read_configs
from archives.errors import BuildError
from archives.fingerprint import fingerprint
from archives.handler_files import copy_handlers, list_handler_files
from archives.own_configs import demo_configs
from archives.packaging import FormatName
from benchmarks.full_size_models import (
    write_base_960h,
    write_bundle,
    write_mms,
    write_speech_bundle,
)
from build_archives import main
from records import read_record, write_record
from repository import EXAMPLES, HANDLER_FOLDER, ROOT
from serving.local import build_with_settings, load_archive
from speechtext.speech.audio_checkpoints import load_encoder
from speechtext.speech.chunks import Windows
from speechtext.speech.ctc.loading import find_head
from speechtext.speech.frame_models import FrameModel, compute_frames

NAMES = [
    "bert_question_answering",
    "bert_seq_classification",
    "bert_token_classification",
    "emformer_asr",
    "emformer_asr_live",
    "gpt2_text_generation",
    "wav2vec2",
]
OF_EACH_HANDLER = ("bert_seq_classification", "emformer_asr", "emformer_asr_live", "wav2vec2")
SPEECH = EXAMPLES / "turn_on_the_kitchen_lights.wav"


def member_bytes(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {
            name: opened.read(name) for name in opened.namelist() if not name.startswith("MAR-INF")
        }


def test_there_are_seven_archives(model_store: Path) -> None:
    assert list(demo_configs()) == NAMES
    assert sorted(path.stem for path in model_store.glob("*.mar")) == NAMES


def test_there_is_an_archive_of_each_handler() -> None:
    configs = demo_configs()
    handlers = {configs[name].handler for name in OF_EACH_HANDLER}
    assert handlers == {each.handler for each in configs.values()}


@pytest.mark.parametrize("name", OF_EACH_HANDLER)
def test_archive_imports_its_handler_from_its_folder_alone(
    name: str, unpacked: Callable[[str], Path]
) -> None:
    module = read_configs()[name].handler.removesuffix(".py")
    environment = {**os.environ, "PYTHONPATH": str(unpacked(name))}
    program = f"import {module}; print({module}.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd="/", capture_output=True, text=True
    )
    assert result.stdout.strip() == str(unpacked(name) / f"{module}.py"), result.stderr


@pytest.mark.parametrize("name", ["emformer_asr", "bert_seq_classification"])
def test_building_twice_gives_the_same_bytes(name: str, model_store: Path, tmp_path: Path) -> None:
    again = build_archive(read_configs()[name], tmp_path)
    assert member_bytes(again) == member_bytes(model_store / f"{name}.mar")


def test_weights_are_safetensors_or_torchscript(model_store: Path) -> None:
    for name in NAMES:
        names = member_bytes(model_store / f"{name}.mar").keys()
        assert not [member for member in names if member.endswith((".bin", ".pkl", ".pth"))]
        assert {"model.safetensors", "model.pt"} & set(names)


def test_archive_says_what_it_was_made_of(model_store: Path) -> None:
    for path in model_store.glob("*.mar"):
        with zipfile.ZipFile(path) as archive:
            said = json.loads(archive.read("provenance.json"))
            names = set(archive.namelist())
            digests = {
                name: hashlib.sha256(archive.read(name)).hexdigest() for name in said["sha256"]
            }
        assert said["source"] == f"demo_models/{path.stem}" or "emformer" in path.stem
        assert said["built_with"]["torch"] == importlib.metadata.version("torch")
        assert digests == said["sha256"]
        others = {f"{path.stem}.yaml", "provenance.json", "MAR-INF/MANIFEST.json"}
        assert {each for each in names - others if not each.endswith("/")} == set(digests)


def test_only_what_changed_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    write_small_wav2vec2(source)
    arguments = ["wav2vec2", "--model-store", str(tmp_path / "store")]
    assert main([*arguments, "--source", str(source)]) == 0
    assert "building" in capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == "wav2vec2: up to date\n"
    (source / "vocab.json").write_text((source / "vocab.json").read_text() + "\n")
    assert main(arguments) == 0
    assert f"building from {source}" in capsys.readouterr().out


def test_what_is_compiled_into_an_archive_is_built_again_when_it_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, handlers = read_configs()["bert_seq_classification"], tmp_path / "handlers"
    copy_handlers(handlers)
    build = partial(build_archive, config, tmp_path / "store", handlers=handlers)
    build()
    assert "building" in capsys.readouterr().out
    for name in ("__pycache__/batches.cpython-311.pyc", ".mypy_cache/3.11/x.json", ".DS_Store"):
        leave_behind(handlers / name)
    build()
    assert "up to date" in capsys.readouterr().out
    encoder = handlers / "speechtext/speech/rnnt/torchscript/encoder.py"
    encoder.write_text(encoder.read_text() + "# changed\n")
    build()
    assert "building" in capsys.readouterr().out


def leave_behind(path: Path) -> None:
    """Write what a tool leaves in a folder of sources."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(20))


def test_other_versions_and_builders_make_other_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_configs()["wav2vec2"]
    digest = partial(fingerprint, config, config.source, HANDLER_FOLDER)
    before = digest()
    assert digest() == before
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "0.1")
        assert digest() != before
    builders = tmp_path / "archives"
    shutil.copytree(archives.fingerprint.BUILDERS, builders)
    monkeypatch.setattr(archives.fingerprint, "BUILDERS", builders)
    assert digest() == before
    (builders / "emformer.py").write_text("")
    assert digest() != before


def test_other_recordings_to_calibrate_by_make_another_archive(tmp_path: Path) -> None:
    config = read_configs()["wav2vec2"]
    settings = {**config.handler_settings, "calibration": str(tmp_path)}
    calibrated = replace(config, handler_settings=settings)
    digests = set()
    for content in (b"", b"one", b"other"):
        (tmp_path / "recording.wav").write_bytes(content)
        digests.add(fingerprint(calibrated, config.source, HANDLER_FOLDER))
    assert len(digests) == 3


def test_source_of_the_name_that_the_archiver_clears_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    source = tmp_path / "wav2vec2"
    shutil.copytree(ROOT / "demo_models" / "wav2vec2", source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    arguments = ["--source", str(source), "--model-store", str(tmp_path / "store")]
    assert main(["wav2vec2", *arguments]) == 0
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def unpack(archive: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of an archive in any format, but for its manifest."""
    if archive.is_file():
        shutil.unpack_archive(archive, folder, "zip" if archive.suffix == ".mar" else "gztar")
        # A tarball has the folder of its model.
        folder = folder / "bert_seq_classification" if archive.suffix == ".gz" else folder
    else:
        folder = archive
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes() for name, path in paths.items() if "MAR-INF" not in str(name)
    }


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_every_format_holds_the_same_bytes_whatever_lies_around(
    archive_format: FormatName, tmp_path: Path, unpacked: Callable[[str], Path]
) -> None:
    config, handlers = read_configs()["bert_seq_classification"], tmp_path / "handlers"
    copy_handlers(handlers)
    for name in ("__pycache__/x.pyc", "speechtext/__pycache__/y.pyc", ".mypy_cache/z", ".z"):
        leave_behind(handlers / name)
    built = build_archive(config, tmp_path, None, archive_format, handlers)
    found = unpack(built, tmp_path / "unpacked")
    assert found == unpack(unpacked(config.name), tmp_path)
    travelling = {str(path) for path in list_handler_files()}
    assert travelling < set(found)
    assert {"speechtext/speech/audio.py", "batches.py", config.handler} < travelling


def test_archive_has_every_file_once(model_store: Path) -> None:
    for name in NAMES:
        with zipfile.ZipFile(model_store / f"{name}.mar") as archive:
            names = archive.namelist()
        assert len(names) == len(set(names))
        assert not [each for each in names if "__pycache__" in each or "/." in f"/{each}"]


DAMAGED_RECORDS = {
    "empty": b"",
    "cut": b'{"source": "demo_models/wav2v',
    "another kind": b"[1, 2]",
    "unknown keys": b'{"source": "a", "archive_format": "tgz", "fingerprint": "b", "more": 1}',
    "missing keys": b'{"source": "a"}',
    "unknown format": b'{"source": "a", "archive_format": "zip", "fingerprint": "b"}',
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("content", DAMAGED_RECORDS.values(), ids=DAMAGED_RECORDS)
def test_damaged_record_means_building_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bert_seq_classification", "--model-store", str(tmp_path)]
    record = tmp_path / ".bert_seq_classification.json"
    record.write_bytes(content)
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "damaged" in printed
    assert "building from demo_models/bert_seq_classification" in printed
    assert json.loads(record.read_text())["archive_format"] == "default"
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {record.name, f"{arguments[0]}.mar"}


def test_record_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / ".model.json"
    write_record(path, BuildRecord("before", "tgz", "1"))
    with path.open() as opened:
        write_record(path, BuildRecord("after", "tgz", "2"))
        # Whoever reads meanwhile has the whole of the earlier one.
        assert json.load(opened)["source"] == "before"
    assert read_record(path, BuildRecord) == BuildRecord("after", "tgz", "2")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_source_is_remembered_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "demo_models" / "bert_seq_classification", tmp_path / "mine")
    arguments = ["bert_seq_classification", "--model-store", str(tmp_path / "store")]
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--source", "mine"]) == 0
    monkeypatch.chdir(ROOT)
    assert f"building from {tmp_path / 'mine'}" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_build_that_is_broken_off_keeps_its_source(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the archive is put into its place, or when what is remembered is written after it."""
    store, source = tmp_path / "store", tmp_path / "source"
    shutil.copytree(ROOT / "demo_models" / "bert_seq_classification", source)
    arguments = ["bert_seq_classification", "--model-store", str(store)]
    own = [*arguments, "--source", str(source), "--format", "no-archive"]
    move = getattr(Path, step)

    def fail(path: Path, target: Path) -> Path:
        if step == "rename" or (store / "bert_seq_classification").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return Path(move(path, target))

    assert main(arguments) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        assert main(own) == 1
    assert "No space left" in capsys.readouterr().err
    assert main(arguments) == 0
    assert f"building from {source}" in capsys.readouterr().out
    assert [each.name for each in store.glob("bert*")] == ["bert_seq_classification"]


@pytest.mark.parametrize("name", ["bert_seq_classification", "emformer_asr", "wav2vec2"])
@pytest.mark.parametrize("damage", ["pointer", "cut"])
def test_weights_that_are_damaged_are_named(
    name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a clone without Git LFS, and of a download that was broken off."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "demo_models" / name, source)
    weights = source / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    weights.write_bytes(pointer if damage == "pointer" else weights.read_bytes()[:-9])
    assert main([name, "--source", str(source), "--model-store", str(tmp_path / "store")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}: {source} is not a folder of ")
    assert ": model.safetensors: expected safetensors, got a damaged file: " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "remove", "write", "sentence"),
    [
        ("gpt2_text_generation", "tokenizer.json", {}, r"Expected a tokenizer \(.*\), got no such"),
        (
            "bert_seq_classification",
            "index_to_name.json",
            {"index_to_name.json": {"0": "no"}},
            "index_to_name.json: expected names of the labels 0 to 1, got those of 0.",
        ),
        (
            "wav2vec2",
            "vocab.json",
            {"vocab.json": {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5}},
            "vocab.json: expected a token for each of the model's 32 labels, got 6 tokens.",
        ),
    ],
)
def test_source_whose_model_could_not_answer_is_refused(
    name: str, remove: str, write: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "demo_models" / name, source)
    (source / remove).unlink()
    for file, content in write.items():
        (source / file).write_text(json.dumps(content))
    with pytest.raises(BuildError, match=f"^{name}: {sentence}"):
        build_archive(read_configs()[name], tmp_path / "store", str(source))


def test_emformer_with_the_pieces_of_another_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "demo_models" / "emformer_asr", source)
    with (source / "spm.model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a few words of another model"] * 10),
            model_writer=file,
            vocab_size=18,
            minloglevel=2,
        )
    with pytest.raises(BuildError, match=r"spm.model: expected \d+ pieces, .*, got 18\.$"):
        build_archive(read_configs()["emformer_asr"], tmp_path / "store", str(source))


@pytest.mark.parametrize(
    ("archive_format", "path"), [("tgz", "wav2vec2.tar.gz"), ("no-archive", "wav2vec2/config.json")]
)
def test_other_formats_replace_the_archive(
    archive_format: FormatName, path: str, tmp_path: Path
) -> None:
    config = read_configs()["wav2vec2"]
    build_archive(config, tmp_path)
    build_archive(config, tmp_path, archive_format=archive_format)
    assert (tmp_path / path).exists()
    assert not (tmp_path / "wav2vec2.mar").exists()


def write_small_wav2vec2(folder: Path) -> None:
    demo = ROOT / "demo_models" / "wav2vec2"
    Wav2Vec2ForCTC.from_pretrained(demo).save_pretrained(folder)
    Wav2Vec2Processor.from_pretrained(demo).save_pretrained(folder)


def test_full_size_base_960h_answers_like_transformers(tmp_path: Path) -> None:
    source = tmp_path / "wav2vec2-base-960h"
    source.mkdir()
    model = write_base_960h(source)
    archive = build_archive(read_configs()["wav2vec2"], tmp_path, str(source), "no-archive")
    reply = load_archive(archive).answer([{"body": SPEECH.read_bytes()}])[0]
    processor = Wav2Vec2Processor.from_pretrained(source)
    waveform, _ = soundfile_read(SPEECH)
    inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        labels = model(inputs.input_values).logits[0].argmax(dim=-1)
    assert reply.status == 200
    assert reply.answer == processor.decode(labels).strip()


def soundfile_read(path: Path) -> tuple[torch.Tensor, int]:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return torch.from_numpy(samples), rate_hz


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


def test_language_of_the_yaml_is_the_one_spoken(tmp_path: Path) -> None:
    source = tmp_path / "mms"
    write_mms(source, {"eng": "abc", "fra": "éàçdefg"}, **SMALL)
    config = read_configs()["wav2vec2"]
    archive = build_with_settings(config, source, tmp_path, target_lang="fra")
    assert not (archive / "adapter.eng.safetensors").exists()
    model = load_archive(archive)
    processor = Wav2Vec2Processor.from_pretrained(source)
    processor.tokenizer.set_target_lang("fra")
    reference = Wav2Vec2ForCTC.from_pretrained(source).eval()
    reference.load_adapter("fra")
    waveform, rate_hz = soundfile_read(SPEECH)
    inputs = processor(waveform, sampling_rate=rate_hz, return_tensors="pt")
    with torch.inference_mode():
        labels = reference(inputs.input_values).logits[0].argmax(dim=-1)
    answer = model.answer([{"body": SPEECH.read_bytes()}])[0].answer
    assert answer == processor.decode(labels).strip()
    assert set(answer) & set("éàçdefg")


def test_language_that_a_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    source = tmp_path / "mms"
    write_mms(source, {"eng": "abc"}, **SMALL)
    with pytest.raises(BuildError, match=r"target_lang: deu does not exist. Choose one of eng"):
        build_with_settings(read_configs()["wav2vec2"], source, tmp_path, target_lang="deu")


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("WAV2VEC2_ASR_BASE_960H", 12),
        ("WAV2VEC2_ASR_LARGE_LV60K_960H", 2),
        ("HUBERT_ASR_LARGE", 2),
        ("VOXPOPULI_ASR_BASE_10K_DE", 2),
    ],
)
def test_speech_bundle_hears_like_torchaudio(
    name: str, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first at full size; the rest differ in norms, order, labels and unused classes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    bundle = getattr(torchaudio.pipelines, name)
    monkeypatch.setitem(bundle._params, "encoder_num_layers", layers)
    write_speech_bundle(bundle, tmp_path / "hub" / "checkpoints")
    source, config = f"torchaudio:{name}", read_configs()["wav2vec2"]
    archive = build_archive(config, tmp_path / "store", source, "no-archive")
    handler = load_archive(archive).handler
    waveform, _ = soundfile_read(SPEECH)
    # In float64, so that what a processor rounds does not hide a difference, nor makes one.
    expected = bundle.get_model().double()(waveform[None].double())[0][0].float()
    request = handler.mode.read(0, {"body": SPEECH.read_bytes()}, None)
    network = AutoModelForCTC.from_pretrained(archive).double().eval()
    model = FrameModel(load_encoder(archive, network), find_head(network))
    samples = request.waveform.double()
    (emission,) = compute_frames(model, [samples], Windows(20.0, 2.0))
    torch.testing.assert_close(emission, expected, atol=1e-4, rtol=0)
    vocabulary = handler.processor.tokenizer.convert_ids_to_tokens(range(len(bundle.get_labels())))
    assert tuple(vocabulary) == bundle.get_labels(blank="<pad>")


def test_full_size_bundle_answers_like_torchaudio(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    source.mkdir()
    write_bundle(source)
    config = read_configs()["emformer_asr"]
    archive = build_with_settings(config, source, tmp_path, beam_width=5)
    reply = load_archive(archive).answer([{"body": SPEECH.read_bytes()}])[0]
    assert reply.status == 200
    assert reply.answer == transcribe_with_torchaudio(source, beam_width=5)


@torch.inference_mode()
def transcribe_with_torchaudio(source: Path, beam_width: int) -> str:
    """Transcribe as the documentation of torchaudio's bundle does, from local files."""
    bundle = replace(
        torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH,
        _rnnt_path=str(source / "emformer_rnnt_base_librispeech.pt"),
        _global_stats_path=str(source / "global_stats_rnnt_librispeech.json"),
        _sp_model_path=str(source / "spm_bpe_4096_librispeech.model"),
    )
    waveform, _ = soundfile_read(SPEECH)
    features, length = bundle.get_feature_extractor()(waveform.clone())
    hypotheses = bundle.get_decoder()(features, length, beam_width)
    text: str = bundle.get_token_processor()(hypotheses[0][0])
    return text.strip()


def test_pickled_weights_become_safetensors(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_small_wav2vec2(source)
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    archive = build_archive(read_configs()["wav2vec2"], tmp_path, str(source), "no-archive")
    assert not (archive / "pytorch_model.bin").exists()
    built = load_file(archive / "model.safetensors")
    assert all(torch.equal(built[name], weight) for name, weight in weights.items())


class Hostile:
    """A pickle that would run a command where it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_hostile_pickle_is_refused_and_the_previous_archive_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    write_small_wav2vec2(source)
    build_archive(read_configs()["wav2vec2"], store, str(source))
    (source / "model.safetensors").unlink()
    torch.save({"weight": Hostile(tmp_path / "proof")}, source / "pytorch_model.bin")
    assert main(["wav2vec2", "--model-store", str(store)]) == 1
    assert capsys.readouterr().err.startswith("error: wav2vec2: ")
    assert not (tmp_path / "proof").exists()
    assert (store / "wav2vec2.mar").exists()


def test_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    demo = ROOT / "demo_models" / "bert_seq_classification"
    config = BertConfig.from_pretrained(demo)
    BertModel(config).save_pretrained(tmp_path)
    for path in demo.glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BuildError, match=r"fine-tuned for sequence_classification.*classifier"):
        build_archive(read_configs()["bert_seq_classification"], tmp_path, str(tmp_path))


def test_speech_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    demo = ROOT / "demo_models" / "wav2vec2"
    Wav2Vec2Model.from_pretrained(demo).save_pretrained(tmp_path)
    Wav2Vec2Processor.from_pretrained(demo).save_pretrained(tmp_path)
    with pytest.raises(BuildError, match=r"fine-tuned for CTC speech recognition.*lm_head"):
        build_archive(read_configs()["wav2vec2"], tmp_path / "store", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("wav2vec2", "nobody-on-the-hub/wav2vec2-base-960h", "SOURCE=path/to/folder"),
        ("wav2vec2", "no/such/folder/here", "SOURCE=path/to/folder"),
        ("emformer_asr", "demo_models/wav2vec2", "torchaudio"),
        ("wav2vec2", "torchaudio:WAV2VEC2_BASE", "WAV2VEC2_ASR_BASE_960H"),
    ],
)
def test_source_that_cannot_be_had_ends_in_one_sentence(
    name: str, source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--source", source, "--model-store", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}: ")
    assert error.count("\n") == 1
    assert said in error


def test_unknown_model_tells_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whisper"]) == 1
    assert "wav2vec2" in capsys.readouterr().err
    with pytest.raises(BuildError):
        choose_configs(["whisper"])


def test_one_source_is_for_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", "folder"]) == 1
    assert "MODEL=" in capsys.readouterr().err
