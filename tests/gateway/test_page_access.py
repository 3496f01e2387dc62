"""The page for everybody: by keyboard, by screen reader, on a phone, in the dark; and /docs."""

from pathlib import Path

import httpx2
import pytest
from selenium.webdriver.common.keys import Keys

from support.browser import DESKTOP, PHONE, RECORDING, Browser, hosts_of
from support.page_actions import find_violations

KINDS = """
  return Array.from(document.forms).filter((form) => form.checkVisibility())
    .map((form) => form.dataset.kind).filter(Boolean)
"""
LOOKS = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]
# What a Tab should reach: all that can be used and is seen, in the order of the page.
REACHABLE = """
  return Array.from(document.querySelectorAll(
    "a[href], button:enabled, input:enabled, select:enabled, textarea:enabled, [tabindex='0']"
  )).filter((each) => each.checkVisibility()).map((each) => each.outerHTML.slice(0, 120));
"""
FOCUSED = """
  const one = document.activeElement;
  const shown = one.type === "file" ? one.previousElementSibling : one;
  const {outlineStyle, outlineWidth} = getComputedStyle(shown);
  return [one.outerHTML.slice(0, 120), outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
"""


@pytest.fixture
def filled(page: Browser) -> Browser:
    """Return the page with an answer and an explanation in every place."""
    page.click("#live-start")
    page.find("#file").send_keys(str(RECORDING))
    page.find("#words button")
    page.click("#align")
    page.write('[name="max_new_tokens"]', "2")
    for button, found in ((".primary", "[data-answer] > *"), ("[data-explain]", ".heat")):
        for kind in page.run(KINDS):
            form = f'form[data-kind="{kind}"]'
            page.click(f"{form} {button}")
            page.find(f"{form} {found}")
    page.wait(lambda: page.find("#alignment").is_displayed())
    page.find("#live-captions li")
    page.click("#live-start")
    page.wait(lambda: page.text("#live-state") == "Stopped")
    return page


def test_no_rule_of_access_is_broken_in_any_look(filled: Browser, tmp_path: Path) -> None:
    for size, scheme in LOOKS:
        filled.show(size, scheme)
        assert find_violations(filled) == [], (size, scheme)
        width = filled.run("return document.documentElement.scrollWidth")
        assert width <= size[0], (size, scheme)
        # For whoever wants to look.
        filled.take_picture(tmp_path / f"{size[0]}-{scheme}.png")


def test_every_control_is_reached_by_tab_and_seen(page: Browser) -> None:
    expected = page.run(REACHABLE)
    assert len(expected) > 20
    reached = []
    for _ in expected:
        page.press(Keys.TAB)
        name, seen = page.run(FOCUSED)
        reached.append(name)
        assert seen, name
    assert reached == expected


def test_keyboard_alone_does_it(page: Browser) -> None:
    page.press(Keys.TAB, Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main"
    question = page.find('[name="question"]')
    page.run("arguments[0].focus()", question)
    page.press(Keys.ENTER)
    page.find('[data-kind="question_answering"] mark')
    page.run("document.querySelector('#file').focus()")
    assert page.run("return document.activeElement.labels[0].textContent") == "Choose a recording"
    page.find("#file").send_keys(str(RECORDING))
    page.wait(lambda: page.run("return player.readyState") == 4)
    page.run("player.addEventListener('seeked', () => { window.sought = player.currentTime; })")
    page.run("words.querySelectorAll('button')[2].focus()")
    page.press(Keys.SPACE)
    assert page.wait(lambda: page.run("return window.sought")) > 0.2


def test_description_of_the_api_is_drawn_and_asks_nobody_else(
    browser: Browser, gateway_url: str
) -> None:
    browser.open(f"{gateway_url}/docs")
    browser.wait(lambda: browser.find_all(".opblock-summary-path"))
    shown = {
        (method, path.replace("\u200b", ""))
        for method, path in zip(
            browser.texts(".opblock-summary-method"),
            browser.texts(".opblock-summary-path"),
            strict=True,
        )
    }
    described = httpx2.get(f"{gateway_url}/openapi.json").json()["paths"]
    assert shown == {
        (method.upper(), path) for path, methods in described.items() for method in methods
    }
    assert ("POST", "/predictions/{model}") in shown
    assert browser.complaints() == []
    assert hosts_of(browser.events()) == {gateway_url.removeprefix("http://")}
