"""Models of one's own: a YAML and an archive under a name of their own."""

import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from archives.configs import EVERY_ARCHIVE, MORE, choose_configs, read_configs
from archives.errors import BuildError
from archives.own_configs import AUDIO_KINDS, KINDS, own_config
from audio_modes import MODES
from build_archives import main
from repository import CONFIG_FOLDER, ROOT
from support.audio_models import write_checkpoint

DEMO = str(ROOT / "demo_models" / "bert_seq_classification")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Return where the YAMLs and the archives of a test are."""
    (tmp_path / "configs").mkdir()
    return ["--configs", str(tmp_path / "configs"), "--model-store", str(tmp_path / "store")]


def test_own_model_gets_an_archive_and_a_yaml(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--name", "support_calls", "--handler", "sequence_classification", "--source", DEMO]
    assert main([*own, *options]) == 0
    assert (tmp_path / "store" / "support_calls.mar").is_file()
    assert "wrote" in capsys.readouterr().out
    path = tmp_path / "configs" / "support_calls.yaml"
    # From now on it is a model like the others, and its file its owner's.
    path.write_text(path.read_text().replace("max_length: 150", "max_length: 99"))
    kept = path.read_text()
    assert main(["support_calls", *options]) == 0
    assert f"building from {DEMO}" in capsys.readouterr().out
    assert main([*own, *options]) == 0
    assert "up to date" in capsys.readouterr().out
    assert path.read_text() == kept


@pytest.mark.parametrize("kind", KINDS)
def test_yaml_of_each_kind_is_that_of_its_demo_model_but_for_the_machine(
    kind: str, tmp_path: Path
) -> None:
    with own_config("mine", kind, "someone/a-model", tmp_path) as config:
        found: Any = yaml.safe_load(config.path.read_text())
    expected: Any = yaml.safe_load((CONFIG_FOLDER / f"{KINDS[kind]}.yaml").read_text())
    handler = expected["handler"]
    handler["dtype"] = "auto"
    del handler["threads"]
    # The demo models hear English, and ten steps explain the demo GPT-2 alone.
    for name in ("language", "n_steps", "num_labels", "speaker_model", "speaker_threshold"):
        handler.pop(name, None)
    if "model_name" in handler:
        handler["model_name"] = "someone/a-model"
    expected["archive"]["source"] = "someone/a-model"
    assert found == expected


def test_choices_that_the_demo_models_make_are_not_told_of_others(tmp_path: Path) -> None:
    """What a comment says of a demo model goes with it, and the language stays as an example."""
    texts = {}
    for kind in ("wav2vec2", "emformer_asr", "text_generation"):
        with own_config(kind, kind, "someone/a-model", tmp_path) as config:
            texts[kind] = config.path.read_text()
    demo = (CONFIG_FOLDER / "wav2vec2.yaml").read_text()
    (line,) = re.findall(r"^  language: .*$", demo, re.MULTILINE)
    told = line.index("#")
    (own,) = re.findall(r"^  # language: en .*$", texts["wav2vec2"], re.MULTILINE)
    assert own[told:] == line[told:]
    assert "\n  # language: en\n" in texts["emformer_asr"]
    assert "ten steps" not in texts["text_generation"]


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_yaml_of_a_mode_has_all_its_settings(kind: str, tmp_path: Path) -> None:
    with own_config("mine", kind, "someone/a-model", tmp_path) as config:
        text = config.path.read_text()
        assert config.source == "someone/a-model"
        settings = config.handler_settings
        assert (settings["mode"], settings["dtype"]) == (kind, "auto")
        assert "threads" not in settings
    mode = MODES[kind]
    defaults = mode.settings_class(mode=kind)
    for field in fields(mode.settings_class):
        if field.name == "threads":
            continue
        (line,) = re.findall(rf"^  (?:# )?{field.name}: .*$", text, re.MULTILINE)
        said = yaml.safe_load(line.replace("# ", "", 1) if "# " in line[:5] else line)
        # What is commented out is the default; the family chooses the attention.
        if "# " in line[:5] and field.name != "attn_implementation":
            assert said[field.name] == getattr(defaults, field.name)


def test_archive_of_a_mode_is_built_and_its_yaml_is_written(
    options: list[str], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "source", "audio_classification")
    own = ["--name", "calls", "--handler", "audio_classification"]
    assert main([*own, "--source", str(tmp_path / "source"), *options]) == 0
    assert (tmp_path / "store" / "calls.mar").is_file()


@pytest.mark.parametrize("source", ["C:\\models\\one", "torchaudio:X # y", "a: b", "'", "yes"])
def test_source_is_written_as_it_is(source: str, tmp_path: Path) -> None:
    with own_config("mine", "wav2vec2", source, tmp_path) as config:
        assert config.source == source


def test_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with own_config("mine", "wav2vec2", "model", tmp_path) as config:
        assert config.source == str(tmp_path / "model")
    with own_config("demo", "wav2vec2", "demo_models/wav2vec2", tmp_path) as config:
        assert config.source == "demo_models/wav2vec2"
    monkeypatch.chdir(ROOT)
    with own_config("here", "wav2vec2", "./demo_models/wav2vec2", tmp_path) as config:
        assert config.source == "./demo_models/wav2vec2"


@pytest.mark.parametrize(
    "name",
    ["", "support calls", "a/b", "../a", "-a", ".a", "a=b", "caf\u00e9", "a\n", "a" * 101, "All"],
)
def test_name_that_torchserve_cannot_take_gets_one_sentence(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--name={name}", "--handler", "wav2vec2", "--source", DEMO, *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Expected NAME to have up to 100 letters")
    assert error.count("\n") == 1
    assert list((tmp_path / "configs").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "a", "--source", DEMO], "HANDLER as one of wav2vec2, emformer_asr"),
        (["--name", "a", "--handler", "whisper", "--source", DEMO], "got whisper"),
        (["--name", "a", "--handler", "wav2vec2"], "Expected SOURCE"),
        (["--handler", "wav2vec2", "--source", DEMO], "Expected a NAME with HANDLER"),
        (["wav2vec2", "--name", "a"], "got both"),
        (["--name", "a", "--handler", "wav2vec2", "--source", "no/such/one"], "SOURCE=path/to"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence_and_nothing_is_left(
    arguments: list[str],
    said: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments, *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert list((tmp_path / "configs").iterdir()) == []


def test_name_of_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with own_config("mine", "question_answering", "someone/a-model", tmp_path):
        pass
    with (
        pytest.raises(BuildError, match="not that of HANDLER=wav2vec2; choose another NAME"),
        own_config("mine", "wav2vec2", "someone/a-model", tmp_path),
    ):
        pass
    with own_config("mine", "bert_question_answering", None, tmp_path) as config:
        assert config.source == "someone/a-model"
    assert list(read_configs(tmp_path)) == ["mine"]


def test_workers_that_would_hang_are_refused(tmp_path: Path) -> None:
    yaml_ = "archive: {source: a, handler: b, example: c}\ncontinuousBatching: true\nmaxWorkers: "
    (tmp_path / "mine.yaml").write_text(yaml_ + "2\n")
    with pytest.raises(BuildError, match=r"expected maxWorkers: 1 with .*; got 2"):
        read_configs(tmp_path)
    for rest in ("1\n", "2\nsequenceBatching: true\n"):
        (tmp_path / "mine.yaml").write_text(yaml_ + rest)
        assert read_configs(tmp_path)["mine"].source == "a"


def test_yaml_goes_before_that_of_its_name_in_more(tmp_path: Path) -> None:
    shutil.copytree(CONFIG_FOLDER / MORE, tmp_path / MORE)
    own = tmp_path / "wav2vec2_commands.yaml"
    own.write_text((tmp_path / MORE / own.name).read_text().replace("batchSize: 8", "batchSize: 2"))
    for names in ([], [own.stem], [EVERY_ARCHIVE]):
        paths = {each.name: each.path for each in choose_configs(names, tmp_path)}
        assert paths[own.stem] == own
    assert [each.name for each in choose_configs([EVERY_ARCHIVE], tmp_path)].count(own.stem) == 1


ARCHIVE = "archive: {source: a, handler: b, example: c}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            f"handler:\n  threads: 1\n mode: x\n{ARCHIVE}".encode(),
            "expected YAML: while parsing",
        ),
        (b"handler: {}  # caf\xe9\n", "expected YAML: unacceptable character #x00e9: invalid"),
        (b"- archive\n", "expected archive: with example, handler, source."),
        (b"archive: 5\n", "expected archive: with example, handler, source."),
        (
            f"handler: [mode]\n{ARCHIVE}".encode(),
            "handler: input should be a valid dictionary, got ['mode'].",
        ),
        (
            f"maxWorkers: two\n{ARCHIVE}".encode(),
            "maxWorkers: input should be a valid integer, unable to parse string as an integer, "
            "got 'two'.",
        ),
        (
            b"archive: {source: 5, handler: b, example: [c]}\n",
            "archive.source: input should be a valid string, got 5; "
            "archive.example: input should be a valid string, got ['c'].",
        ),
        (
            ARCHIVE.replace("}", ", example_headers: {x-a: true}}").encode(),
            "archive.example_headers.x-a: input should be a valid string, got True.",
        ),
    ],
)
def test_mistake_in_a_yaml_is_one_sentence_with_file_and_key(
    content: bytes,
    said: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "configs" / "mine.yaml"
    path.write_bytes(content)
    assert main(["mine", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "transformers_handler.py\n",
            "transformers_handler\n",
            "archive.handler: expected one of wav2vec2_handler.py, emformer_rnnt_handler.py, "
            "emformer_live_handler.py, transformers_handler.py, got transformers_handler.",
        ),
        (
            "threads: 1",
            "threads: two",
            "mine.yaml: handler.threads: input should be a valid integer, got 'two'.",
        ),
        (
            "max_length",
            "maxlength",
            "mine.yaml: handler.maxlength: expected one of the keys model_",
        ),
    ],
)
def test_mistake_in_what_a_text_model_is_built_with_is_one_sentence(
    old: str,
    new: str,
    said: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (CONFIG_FOLDER / "bert_seq_classification.yaml").read_text()
    assert old in text
    (tmp_path / "configs" / "mine.yaml").write_text(text.replace(old, new))
    assert main(["mine", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_yaml_without_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("handler: {}\n")
    with pytest.raises(BuildError, match=r"mine.yaml: expected archive: with example, handler"):
        read_configs(tmp_path)
