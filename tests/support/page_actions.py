"""What people do on the page."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from selenium.webdriver.common.keys import Keys

from support.browser import RECORDING, Browser
from support.common import EXAMPLES

# The rules of axe-core are the tests of WCAG that a program can run.
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
SAID = json.loads((EXAMPLES / "transcripts.json").read_text())[RECORDING.name]


def form_of(kind: str) -> str:
    """Return what selects the form of a kind of models."""
    return f'form[data-kind="{kind}"]'


def submit(page: Browser, kind: str, **fields: str) -> str:
    """Fill in the form of a kind of models and send it; return what selects it."""
    form = form_of(kind)
    for name, text in fields.items():
        page.write(f'{form} [name="{name}"]', text)
    page.click(f"{form} .primary")
    return form


def transcribe(page: Browser, path: Path = RECORDING) -> None:
    """Choose a file, and return once its words are there."""
    page.find("#file").send_keys(str(path))
    page.find("#words button")


def drop(page: Browser, name: str, content: bytes) -> None:
    """Drop a file."""
    page.run(
        "const files = new DataTransfer();"
        "files.items.add(new File([new Uint8Array(arguments[1])], arguments[0]));"
        "document.querySelector('#drop').dispatchEvent("
        "new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}))",
        name,
        list(content),
    )


def choose_recordings_model(page: Browser, name: str) -> None:
    """Choose a model for recordings."""
    page.run(
        "const model = document.querySelector('#recording-model'); model.value = arguments[0];"
        "model.dispatchEvent(new Event('change'))",
        name,
    )


def start_listening(page: Browser) -> None:
    """Start the microphone, and return once it is heard."""
    page.click("#live-start")
    page.wait(lambda: page.text("#live-state") == "Listening")


def give_token(page: Browser, token: str) -> None:
    """Give the page a token, as if it had asked for one."""
    page.run("document.querySelector('#token-form').hidden = false")
    page.write("#token", token)
    page.press(Keys.ENTER)
    page.wait(lambda: not page.find("#token-form").is_displayed())


def find_violations(page: Browser) -> list[Any]:
    """Return the rules of WCAG that axe-core finds broken, with the elements in question."""
    page.run(AXE)
    found = page.driver.execute_async_script(
        "axe.run({resultTypes: ['violations']}).then((found) => arguments[0](found.violations))"
    )
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]
