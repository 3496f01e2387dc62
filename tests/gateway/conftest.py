"""A browser for the tests of the page."""

import wave
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import OpenAI

from support.browser import RECORDING, SILENCE_S, Browser, Visit, run_browser


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recording between two silences."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    with wave.open(str(RECORDING)) as recording, wave.open(str(path), "wb") as padded:
        padded.setparams(recording.getparams())
        silence = bytes(2 * int(SILENCE_S * recording.getframerate()))
        speech = recording.readframes(recording.getnframes())
        padded.writeframes(silence + speech + silence)
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory, microphone: Path) -> Iterator[Browser]:
    """Return a Chromium with that microphone."""
    with run_browser(tmp_path_factory.mktemp("chromium"), microphone) as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Return a function that opens pages; nothing may be complained about, or asked elsewhere."""
    with ExitStack() as exits:
        yield Visit(browser, exits)


@pytest.fixture
def page(visit: Visit, gateway_url: str) -> Browser:
    """Return the browser with the page of the gateway."""
    return visit(gateway_url)


@pytest.fixture(scope="module")
def openai_client(gateway_url: str) -> Iterator[OpenAI]:
    """Return the official client, which tries nothing again."""
    with OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as client:
        yield client
