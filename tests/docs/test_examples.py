"""What the README and the manual show is what happens."""

import doctest
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, pipeline

from archives.configs import more_configs
from archives.own_configs import demo_configs
from repository import CONFIG_FOLDER, ROOT
from serving.archives_server import serve_archives, stop_serving
from serving.configuration import free_port
from serving.logs import log_path
from speechtext.text.base import Answer
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import TASKS
from support.common import write_free_config
from support.pages import GATEWAY_AT, MANAGED_AT, PAGES, SERVED_AT, blocks, link_workspace, prints
from trials.servers import TrialServer

# A request after "$ ", continued by backslashes, and what it prints, up to the next or the end.
EXCHANGE = re.compile(
    r"^\$ ((?:curl|(?:head|tail) .* \| curl) (?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE
)
EXCHANGES = [
    pytest.param(page, command, shown, id=f"{page}-{number}")
    for page in PAGES
    for number, (command, shown) in enumerate(EXCHANGE.findall("".join(blocks(page, "console"))))
]
# The pages whose examples are of archives that search.
SEARCHING = ("docs/hotwords.md",)
# Archives that are served where they are named.
SOUND = re.compile(f"/({'|'.join(more_configs())})\\b")
PAGES_WITH_PYTHON = [page for page in PAGES if blocks(page, "pycon")]


@pytest.mark.parametrize(("page", "command", "shown"), EXCHANGES)
def test_requests_are_answered_as_shown(
    page: str, command: str, shown: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    link_workspace(tmp_path)
    server = request.getfixturevalue(choose_server(page, command))
    gateway_url = request.getfixturevalue("gateway_url") if GATEWAY_AT in command else ""
    result = subprocess.run(  # noqa: S602 - the pages' commands are for a shell
        at_test(command, server, gateway_url).replace("curl ", "curl -s ", 1),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert prints(shown, result.stdout), result.stdout


def choose_server(page: str, command: str) -> str:
    """Return the fixture of the server that a request of a page is for."""
    if SOUND.search(command):
        return "sound_server"
    return "search_server" if page in SEARCHING else "server"


def at_test(command: str, server: TrialServer, gateway_url: str) -> str:
    """Return a command of the manual with the addresses of the servers of the tests."""
    properties = server.properties
    return (
        command.replace(SERVED_AT, properties["inference_address"])
        .replace(MANAGED_AT, properties["management_address"])
        .replace(GATEWAY_AT, gateway_url)
    )


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_python_examples_print_what_is_shown(
    page: str,
    inference_url: str,
    gateway_url: str,
    unpacked: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link_workspace(tmp_path)
    # What `make archive MODEL=emformer_asr FORMAT=no-archive` writes.
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / "emformer_asr").symlink_to(unpacked("emformer_asr"))
    monkeypatch.chdir(tmp_path)
    source = "".join(blocks(page, "pycon")).replace(SERVED_AT, inference_url)
    for scheme in ("http", "ws"):
        shown, there = (each.replace("http", scheme, 1) for each in (GATEWAY_AT, gateway_url))
        source = source.replace(shown, there)
    example = doctest.DocTestParser().get_doctest(source, {}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example)
    assert runner.summarize().failed == 0


def test_make_serve_prints_what_the_readme_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = blocks("README.md", "text")
    store, config = tmp_path / "store", tmp_path / "config.properties"
    address = write_free_config(config)["inference_address"]
    port = free_port()
    gateway_config = tmp_path / "gateway.yaml"
    gateway_config.write_text(f"port: {port}\n")
    # Two of the seven models: "..." stands for the others.
    models = ["bert_question_answering", "wav2vec2"]
    try:
        serve_archives(models, tmp_path / "server", config, CONFIG_FOLDER, store, gateway_config)
    finally:
        stop_serving(tmp_path / "server")
    log = os.path.relpath(log_path(tmp_path / "server"))
    printed = capsys.readouterr().out.replace(address, SERVED_AT)
    printed = printed.replace(f"http://127.0.0.1:{port}", GATEWAY_AT)
    assert prints(shown, printed.replace(log, ".build/server/logs/torchserve.log")), printed


def test_task_of_the_manual_answers_as_the_pipeline_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = blocks("docs/architecture.md", "python")
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - the manual's example
    monkeypatch.setitem(TASKS, "fill_mask", names["FillMask"])
    checkpoint = ROOT / "demo_models" / "bert_seq_classification"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(checkpoint)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    settings = TextSettings(mode="fill_mask", captum_explanation=True)
    predictor = TextPredictor.load(tmp_path, settings)
    text = f"the food was {tokenizer.mask_token} ."
    expected = pipeline("fill-mask", str(tmp_path))(text, top_k=2)
    asked = predictor.read({"inputs": text, "parameters": {"top_k": 2}})
    plain, found = predictor.answer([predictor.read(text), asked])
    assert isinstance(plain, Answer)
    assert isinstance(found, Answer)
    assert plain.content == expected[0]["token_str"]
    for ours, theirs in zip(found.content, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)
        assert (ours["token"], ours["token_str"]) == (theirs["token"], theirs["token_str"])
    (explanation,) = predictor.explain([predictor.read(text, explain=True)])
    assert isinstance(explanation, Explanation)
    assert explanation.content()["target"] == plain.content


def test_readme_and_manual_show_every_archive() -> None:
    shown = " ".join(each.values[1] for each in EXCHANGES)  # type: ignore[misc]
    for name in (*demo_configs(), *more_configs()):
        assert f"/predictions/{name}" in shown, name
    assert "/explanations/" in shown
