"""The manual names what there is: settings, parameters, errors, metrics, modules, targets."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from archives.own_configs import KINDS
from batches import STATUSES
from gateway.settings import ClientLimits, Settings, TorchServeSettings
from repository import HANDLER_FOLDER, ROOT
from serving.configuration import read_properties
from speech_requests import EXPLANATION_WRITERS, RESPONSE_FORMATS
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.live_sessions import LiveSettings
from speechtext.speech.rnnt.recognizer import EmformerSettings
from speechtext.text.explanation.targets import ExplanationParameters
from speechtext.text.loading import CompileSettings
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import TASKS
from support.pages import PAGES, rows

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?:`|^\$ )make ([^`\n]+)", "\n".join(PAGES.values()), re.MULTILINE)
GATEWAY_MODULES = sorted(
    path for path in (ROOT / "gateway").rglob("*.py") if path.name != "__init__.py"
)
ENGINE_MODULES = sorted(
    path
    for folder in ("cluster", "bulk")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)
MODULES = sorted(
    path.relative_to(HANDLER_FOLDER)
    for path in HANDLER_FOLDER.rglob("*.py")
    if path.name != "__init__.py"
)
# TorchServe's own, which it emits for each handler.
TORCHSERVE_METRICS = {"HandlerTime", "PredictionTime"}


def error_kinds() -> Iterator[str]:
    """Yield the name of each reason for which the handlers and the library refuse a request."""
    for path in HANDLER_FOLDER.rglob("*.py"):
        yield from kinds_in(path)


def kinds_in(path: Path) -> Iterator[str]:
    """Yield the names of reasons in one file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and len(node.args) > 1):
            continue
        function, kind = node.func, node.args[0]
        name = function.id if isinstance(function, ast.Name) else ""
        if name.endswith("Error") and isinstance(kind, ast.Constant):
            yield str(kind.value)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_make_commands_exist(command: str) -> None:
    target, *options = re.findall(r'[^\s"]+(?:"[^"]*")?', command)
    for each in (target, *(word for word in options if word.islower() and "=" not in word)):
        if re.fullmatch(r"[a-z-]+", each):
            assert re.search(rf"^{each}:", MAKEFILE, re.MULTILINE), command
    for option in re.findall(r"([A-Z_]+)=", command):
        assert re.search(rf"^{option} \??=", MAKEFILE, re.MULTILINE), command


@pytest.mark.parametrize(
    "settings_class",
    [Wav2Vec2Settings, EmformerSettings, LiveSettings, TextSettings],
)
def test_every_setting_is_in_the_manual(settings_class: Any) -> None:
    cells = " ".join(rows("docs/configuration.md"))
    for field in fields(settings_class):
        assert f"`{field.name}`" in cells, field.name


def test_every_setting_of_compilation_is_in_the_manual() -> None:
    names = ", ".join(field.name for field in fields(CompileSettings))
    assert f"`pt2: compile: {{{names}}}`" in PAGES["docs/configuration.md"]


def test_every_setting_of_wav2vec2_is_in_its_yaml() -> None:
    text = (ROOT / "model_configs" / "wav2vec2.yaml").read_text(encoding="utf-8")
    for field in fields(Wav2Vec2Settings):
        assert re.search(rf"^  (# )?{field.name}: ", text, re.MULTILINE), field.name


def test_every_key_of_config_properties_is_in_the_manual() -> None:
    cells = " ".join(rows("docs/configuration.md"))
    for key in read_properties():
        assert f"`{key}`" in cells, key


def test_every_setting_of_the_gateway_is_in_the_manual_and_in_its_file() -> None:
    cells = " ".join((*rows("docs/gateway.md"), *rows("docs/gateway-access.md")))
    text = (ROOT / "gateway.yaml").read_text(encoding="utf-8")
    for field in (*fields(Settings), *fields(TorchServeSettings), *fields(ClientLimits)):
        assert f"`{field.name}`" in cells, field.name
        assert re.search(rf"^ *(# +)?{field.name}:", text, re.MULTILINE), field.name


def test_every_reason_for_an_error_of_the_gateway_is_in_the_manual() -> None:
    kinds = {each for path in GATEWAY_MODULES for each in kinds_in(path)}
    assert "EngineUnreachable" in kinds
    pages = ("docs/gateway.md", "docs/realtime.md", "docs/errors.md")
    cells = " ".join(cell for page in pages for cell in rows(page))
    for kind in kinds:
        assert f"`{kind}`" in cells, kind


@pytest.mark.parametrize("mode", TASKS)
def test_every_parameter_of_a_task_is_in_the_manual(mode: str) -> None:
    task = mode.replace("_", " ")
    about = re.findall(rf"^\| {task} \| (.*) \|$", PAGES["docs/text.md"], re.MULTILINE)
    names = {f"`{field.name}`" for field in fields(TASKS[mode].parameters)}
    assert any(names <= set(re.findall(r"`\w+`", row)) for row in about), names


def test_every_parameter_of_explanations_is_in_the_manual() -> None:
    cells = rows("docs/explanations.md")
    for field in fields(ExplanationParameters):
        assert f"`{field.name}`" in cells, field.name


def test_every_response_format_is_in_the_manual() -> None:
    for name, media_type in RESPONSE_FORMATS.items():
        if media_type not in EXPLANATION_WRITERS or name == "json":
            assert re.search(rf"^\| `{media_type}` \| `{name}` \|", PAGES["docs/speech.md"], re.M)


def test_every_reason_for_an_error_is_in_the_manual() -> None:
    kinds = set(error_kinds())
    assert "UnsupportedAudio" in kinds
    cells = " ".join(rows("docs/errors.md"))
    for kind in kinds:
        assert f"`{kind}`" in cells, kind


def test_every_status_is_in_the_manual() -> None:
    for error, status in STATUSES.items():
        row = rf"^\| {status.value} \| .* \| `{error.__name__}` \|$"
        assert re.search(row, PAGES["docs/errors.md"], re.MULTILINE), error


def test_every_metric_is_in_the_manual() -> None:
    metrics = yaml.safe_load((ROOT / "metrics.yaml").read_text(encoding="utf-8"))["model_metrics"]
    names = {metric["name"] for kind in metrics.values() for metric in kind}
    cells = " ".join(rows("docs/operating.md"))
    for name in names - TORCHSERVE_METRICS:
        assert f"`{name}`" in cells, name


def test_every_kind_of_model_is_in_the_manual() -> None:
    cells = " ".join(rows("docs/archives.md"))
    for kind in KINDS:
        assert f"`{kind}`" in cells, kind


def test_every_module_is_in_the_tree_and_in_the_reference() -> None:
    reference = "\n".join(text for page, text in PAGES.items() if page.startswith("docs/api/"))
    documented = re.findall(r"^::: ([\w.]+)$", reference, re.MULTILINE)
    expected = [".".join(path.with_suffix("").parts) for path in MODULES]
    assert sorted(documented) == sorted(expected)
    tree = re.findall(r"^ +(\w+\.py)\b", PAGES["docs/architecture.md"], re.MULTILINE)
    beside = (*GATEWAY_MODULES, *ENGINE_MODULES)
    assert sorted(tree) == sorted(path.name for path in (*MODULES, *beside))
