"""The files of the page, and what hostile or slow servers make of it."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest
from selenium.webdriver.common.keys import Keys

from support.browser import RECORDING, Browser, Visit
from support.gateway import properties_of
from support.odd_server import OddServer, endless_story, run_odd_server
from support.page_actions import choose_recordings_model, drop, form_of, submit
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer

HOSTILE = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>&amp; 'שלום' 🦥"


@pytest.mark.parametrize("path", ["/", "/page/files/main.js", "/page/files/page.css", "/docs"])
def test_files_come_with_a_policy_and_are_kept_by_their_tag(path: str, gateway_url: str) -> None:
    got = httpx2.get(f"{gateway_url}{path}")
    assert got.status_code == 200
    policy = dict(each.split(" ", 1) for each in got.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert ("require-trusted-types-for" in policy) == (path != "/docs")
    assert got.headers["x-content-type-options"] == "nosniff"
    again = httpx2.get(f"{gateway_url}{path}", headers={"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = httpx2.head(f"{gateway_url}{path}")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/page/files/..%2froutes.py",
        "/page/files/%2e%2e/routes.py",
        "/page/files/none.js",
        "/page/swagger/favicon.png",
        "/page/swagger/..%2fcore.py",
    ],
)
def test_no_other_file_is_sent(path: str, gateway_url: str) -> None:
    got = httpx2.get(f"{gateway_url}{path}")
    assert (got.status_code, got.json()["type"]) == (404, "NotFound")


def test_models_are_described(gateway_url: str, server: TrialServer) -> None:
    found = httpx2.get(f"{gateway_url}/page/models.json").json()
    assert found["max_body_bytes"] == 157_286_400
    models = {each["name"]: each for each in found["models"]}
    assert len(models) == 7
    address = server.properties["management_address"]
    for name, model in models.items():
        (state,) = httpx2.get(f"{address}/models/{name}?customized=true").json()
        said = state["customizedMetadata"]
        assert {key: model[key] for key in said if key in model} == {
            key: value for key, value in said.items() if key in model
        }
        assert (model["ready"], model["version"]) == (True, "1.0")


RELEASED = Event()


def slow(handler: Any, body: bytes) -> Any:
    RELEASED.wait()
    return {"text": "late", "duration": 1.0, "words": []}


def guarded(handler: Any, body: bytes) -> Any:
    if handler.headers.get("authorization") != "Bearer sesame":
        return {"code": 400, "type": "InvalidKeyException", "message": "Token is missing."}
    return [{"label": "open", "score": 1.0}]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OddServer, RunningGateway]]:
    """Return a gateway before a server with hostile names, labels and words."""
    kinds = {
        HOSTILE: "sequence_classification",
        "named": "token_classification",
        "asked": "question_answering",
        "endless": "text_generation",
        "speech": "speech_recognition",
        "slow": "speech_recognition",
        "guarded": "sequence_classification",
    }
    models = {name: {"kind": kind, "explainable": True} for name, kind in kinds.items()}
    word = {"word": HOSTILE, "start": 0.0, "end": 1.0, "confidence": 0.1}
    entity = {"entity_group": HOSTILE, "score": 0.5, "word": HOSTILE, "start": 0, "end": 9}
    heat = {"words": [HOSTILE], "importances": [1.0], "delta": 0.0, "target": HOSTILE}
    replies: dict[str, Any] = {
        f"/predictions/{HOSTILE}": lambda *_: [{"label": HOSTILE, "score": 0.5}],
        f"/explanations/{HOSTILE}": lambda *_: heat,
        "/predictions/named": lambda *_: [entity],
        "/explanations/named": lambda *_: {"words": [HOSTILE], "entities": [heat | entity]},
        "/predictions/asked": lambda *_: {"code": 422, "type": "No", "message": HOSTILE},
        "/predictions/endless": endless_story,
        "/predictions/speech": lambda *_: {"text": HOSTILE, "duration": 1.0, "words": [word]},
        "/predictions/guarded": guarded,
        "/predictions/slow": slow,
    }
    with (
        run_odd_server(models, replies) as server,
        run_gateway(tmp_path_factory.mktemp("odd"), properties_of(server.address)) as gateway,
    ):
        yield server, gateway
        RELEASED.set()


def test_hostile_words_are_words(
    visit: Visit, odd: tuple[OddServer, RunningGateway], tmp_path: Path
) -> None:
    page = visit(odd[1].url)
    assert HOSTILE in page.texts(f"{form_of('sequence_classification')} option")
    for kind in ("sequence_classification", "token_classification"):
        form = submit(page, kind, text=HOSTILE)
        page.find(f"{form} [data-answer] > *")
        page.click(f"{form} [data-explain]")
        assert page.wait(partial(page.texts, f"{form} .heat li span")) == [HOSTILE]
    assert page.texts(".labels li span:first-child") == [HOSTILE]
    assert page.texts("mark small") == [HOSTILE]
    refused = submit(page, "question_answering", context=HOSTILE, question=HOSTILE)
    page.wait(lambda: page.texts(f"{refused} > .error") == [HOSTILE])
    choose_recordings_model(page, "speech")
    # File names have no slash.
    drop(page, HOSTILE.replace("/", ""), RECORDING.read_bytes())
    page.find("#words button")
    assert page.texts("#words button") == [HOSTILE]
    assert page.texts("#file-name") == [HOSTILE.replace("/", "")]
    assert page.run("return window.owned") is None
    assert page.find_all("main script, main img[src='x']") == []


def test_endless_story_is_stopped(visit: Visit, odd: tuple[OddServer, RunningGateway]) -> None:
    page = visit(odd[1].url)
    form = submit(page, "text_generation", text="Once")
    page.wait(lambda: page.text(f"{form} .story").count("and") > 3)
    page.click(f"{form} [data-stop]")
    ended = page.wait_for_text(f"{form} [data-answer] .state")
    assert re.fullmatch(r"\d+ tokens \(stopped\)", ended)
    assert page.text(f"{form} .story").count("and") == int(ended.split()[0])
    assert page.text(f"{form} > .error") == ""


def test_token_is_asked_for_sent_and_not_kept(
    visit: Visit, odd: tuple[OddServer, RunningGateway]
) -> None:
    page = visit(odd[1].url)
    form = form_of("sequence_classification")
    page.run("document.querySelector(arguments[0]).value = 'guarded'", f"{form} select")
    assert not page.find("#token-form").is_displayed()
    submit(page, "sequence_classification")
    assert page.wait_for_text(f"{form} > .error") == "Token is missing."
    assert page.find("#token-form").is_displayed()
    page.write("#token", "sesame")
    page.press(Keys.ENTER)
    page.wait(lambda: not page.find("#token-form").is_displayed())
    submit(page, "sequence_classification")
    page.find(f"{form} .labels li")
    assert page.texts(f"{form} .labels li") == ["open100.0 %"]
    kept = "return [document.cookie, localStorage.length, sessionStorage.length, token.value]"
    assert page.run(kept) == ["", 0, 0, ""]
    assert page.driver.execute_async_script("indexedDB.databases().then(arguments[0])") == []


def test_what_takes_long_has_its_progress_and_is_cancelled(
    visit: Visit, odd: tuple[OddServer, RunningGateway]
) -> None:
    page = visit(odd[1].url)
    choose_recordings_model(page, "slow")
    drop(page, "long.wav", RECORDING.read_bytes())
    work = "#recording .body > [data-work]"
    assert page.wait_for_text(f"{work} [role=status]") == "Transcribing long.wav …"
    bar = page.find(f"{work} progress")
    assert bar.get_attribute("aria-label") == "Transcribing long.wav …"
    page.click(f"{work} button")
    page.wait(lambda: page.text(work) == "")
    assert page.text("#recording .body > .error") == ""
    assert not page.find("#transcript").is_displayed()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('new Response(\'{"message": "Expected TorchServe."}\', {status: 503})', "Expected Torch"),
        ("new Response('{\"models\": [', {status: 200})", "The answer ended before its end."),
    ],
)
def test_server_that_fails_later_is_not_shown_as_good(
    answer: str, said: str, page: Browser
) -> None:
    page.wait(lambda: page.find("#server-state.good"))
    page.run(
        f"const real = window.fetch; window.fetch = async () => {answer};"
        "document.dispatchEvent(new Event('visibilitychange'));"
        "setTimeout(() => { window.fetch = real; }, 1000);"
    )
    page.wait(lambda: page.text("#server-state").startswith(said))
    assert page.find("#server-state").get_attribute("class") == "state"
    # It is looked for again.
    page.wait(lambda: page.find("#server-state.good"))
