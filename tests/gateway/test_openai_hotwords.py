"""Keywords and prompts of OpenAI's protocol: what a model that searches is told to listen for."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
import yaml
from openai import OpenAI
from openai.types.audio import TranscriptionTextDoneEvent

from archives.building import build_archive
from archives.configs import read_config
from gateway.engine import Description, ImpossibleRequestError
from gateway.openai.hotwords import find_hotwords, words_of
from repository import CONFIG_FOLDER
from support.common import EXAMPLES
from support.recordings import add_noise
from trials.gateways import run_gateway
from trials.servers import TrialServer, run_server

SEARCHES = Description(decoder="beam", hotwords=True)
GREEDY = Description(decoder="greedy")
MODEL = "searching"
NOISY = ("noisy.wav", add_noise(EXAMPLES / "close_the_bathroom_window.wav", 5000))


def hotwords_of(keywords: Sequence[str], prompt: str) -> list[str]:
    found = find_hotwords(keywords, prompt, SEARCHES)
    assert set(found) <= {"hotwords"}
    return list(json.loads(found.get("hotwords", "[]")))


def test_keywords_come_first_as_they_are() -> None:
    assert hotwords_of(["kitchen lights", " garage ", ""], "") == ["kitchen lights", "garage"]
    assert hotwords_of(["Anna"], "ANNA Boleyn and anna, Boleyn.") == ["Anna", "Boleyn"]
    assert hotwords_of([], "   ") == []
    assert hotwords_of([], "a to 42") == []


def test_words_of_a_prompt_are_its_longer_ones() -> None:
    prompt = "ZyntriQix, Digique-Plus; O'Reilly\u2019s 42nd caf\u00e9 (k8s).\nUmlaut: \u00dcber_all"
    assert words_of(prompt) == [
        "ZyntriQix", "Digique", "Plus", "O'Reilly's", "caf\u00e9", "Umlaut", "\u00dcber",
    ]  # fmt: skip


def test_no_more_words_than_the_engine_takes() -> None:
    letters = "abcdefghij"
    words = [f"word{one}{other}" for one in letters for other in letters + "klm"]
    assert hotwords_of(["first"], " ".join(words)) == ["first", *words[:99]]
    assert words_of("x" * 101) == []


@pytest.mark.parametrize(
    ("keywords", "prompt", "field"), [(["a"], "", "keywords"), ([], "the", "prompt")]
)
def test_greedy_models_refuse_both(keywords: list[str], prompt: str, field: str) -> None:
    with pytest.raises(ImpossibleRequestError, match="decoder: beam") as caught:
        find_hotwords(keywords, prompt, GREEDY)
    assert caught.value.field == field
    assert find_hotwords([""], " ", GREEDY) == {}


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a server with an Emformer that searches."""
    folder = tmp_path_factory.mktemp("searching")
    content = yaml.safe_load((CONFIG_FOLDER / "emformer_asr.yaml").read_text(encoding="utf-8"))
    content["handler"] |= {"beam_width": 8}
    path = folder / f"{MODEL}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    config = read_config(path)
    archive = build_archive(config, folder, source=config.source, archive_format="default")
    with run_server(archives=[archive], store=folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(searching: TrialServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("gateway")
    with (
        run_gateway(folder, searching.properties) as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_keywords_and_prompts_are_heard_in_noise(client: OpenAI) -> None:
    def ask(**options: Any) -> str:
        return str(client.audio.transcriptions.create(model=MODEL, file=NOISY, **options).text)

    assert "bathroom" not in ask()
    spoken = "close the bathroom window"
    assert ask(keywords=[spoken]) == spoken
    assert "bathroom" in ask(keywords=spoken.split())
    assert "bathroom" in ask(prompt="A bathroom! Or the window.")
    *_, done = client.audio.transcriptions.create(
        model=MODEL, file=NOISY, stream=True, keywords=[spoken]
    )
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == spoken


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"keywords": ["window", "42"]}, "keywords"),
        ({"prompt": "\u7a93\u3092\u9589\u3081\u308b"}, "prompt"),
    ],
)
def test_letters_that_the_model_lacks(options: dict[str, Any], param: str, client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.audio.transcriptions.create(model=MODEL, file=NOISY, **options)
    assert (caught.value.param, caught.value.code) == (param, "unknown_spelling")
    for said in options.values():
        assert str(said) not in caught.value.message
