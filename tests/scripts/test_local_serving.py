"""An archive's handler without a server imports what a worker would: the archive's own modules."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batches
from archives.handler_files import copy_handlers
from serving.local import load_archive

HANDLER = """
import batches

class Handler:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        from speechtext import errors
        from lazily import WORD
        return [f"{batches.WORD} {errors.WORD} {WORD}" for _ in data]
"""


def write_archive(folder: Path, word: str) -> Path:
    """Write an archive with modules that are called as ours are, and one that is imported late."""
    copy_handlers(folder)
    (folder / "handler.py").write_text(HANDLER)
    for name in ("batches.py", "speechtext/errors.py", "lazily.py"):
        (folder / name).write_text(f"WORD = {word!r}\n")
    (folder / "MAR-INF").mkdir()
    model = {"modelName": "words", "handler": "handler.py", "modelVersion": "1.0"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    return folder


def test_each_archive_has_modules_of_its_own_also_those_that_it_imports_late(
    tmp_path: Path,
) -> None:
    modules, path = dict(sys.modules), sys.path[:]
    models = {word: load_archive(write_archive(tmp_path / word, word)) for word in ("one", "two")}
    for word, model in models.items():
        (reply,) = model.answer([{}])
        assert reply.answer == f"{word} {word} {word}"
        assert word == model.module("lazily").WORD
        vars(model.module("batches"))["WORD"] = "patched"
        assert model.answer([{}])[0].answer == f"patched {word} {word}"
    assert sys.path == path
    assert sys.modules["batches"] is batches
    assert {name for name in ("handler", "lazily") if name in sys.modules} == set()
    changed = [name for name, module in modules.items() if sys.modules.get(name) is not module]
    assert changed == []


def test_archive_that_lacks_a_module_does_not_find_that_of_the_repository(tmp_path: Path) -> None:
    folder = write_archive(tmp_path / "lacking", "a")
    (folder / "handler.py").write_text(f"import shutdown_gate\n{HANDLER}")
    load_archive(folder)
    (folder / "shutdown_gate.py").unlink()
    # TorchServe reports a handler that cannot be imported as a missing one of its own.
    with pytest.raises(ModuleNotFoundError, match=r"ts\.torch_handler"):
        load_archive(folder)
    assert sys.modules["batches"] is batches


@pytest.mark.parametrize("name", ["wav2vec2", "emformer_asr", "bert_seq_classification"])
def test_all_of_our_modules_come_from_the_archive(
    name: str, load_model: Callable[[str], Any], unpacked: Callable[[str], Path]
) -> None:
    model = load_model(name)
    ours = {"batches": model.module("batches"), "speechtext": model.module("speechtext")}
    for each in (*ours.values(), model.module(type(model.handler).__module__)):
        assert Path(str(each.__file__)).is_relative_to(unpacked(name))
    assert ours["batches"] is not batches
