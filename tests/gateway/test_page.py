"""The page at / in a real browser: speech, recordings, texts, the keyboard, and hostile content."""

import json
import re
import wave
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from support.browser import RECORDING, SILENCE_S, Browser, Visit
from support.common import EXAMPLES
from support.gateway import properties_of
from support.odd_server import OddServer, endless_story, run_odd_server
from trials.gateways import RunningGateway, free_port, run_gateway
from trials.servers import TrialServer

SAID = json.loads((EXAMPLES / "transcripts.json").read_text())[RECORDING.name]
HOSTILE = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>&amp; 'שלום' 🦥"
GENERATION, QUESTIONS = "gpt2_text_generation", "bert_question_answering"
SEQUENCE, TOKENS = "bert_seq_classification", "bert_token_classification"


def answer_of(url: str, model: str, content: Any, door: str = "predictions") -> Any:
    """Return what the handler says itself."""
    return httpx2.post(f"{url}/{door}/{model}", json=content, timeout=60).json()


def form_of(kind: str) -> str:
    return f'form[data-kind="{kind}"]'


# What is sent


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


# Live captions


def watch_partials(page: Browser) -> None:
    page.run(
        "window.partials = []; new MutationObserver(() => window.partials.push("
        "document.querySelector('#live-partial').textContent))"
        ".observe(document.querySelector('#live-partial'), {childList: true})"
    )


def give_token(page: Browser, token: str) -> None:
    page.run("document.querySelector('#token-form').hidden = false")
    page.write("#token", token)
    page.press(Keys.ENTER)
    page.wait(lambda: not page.find("#token-form").is_displayed())


def start_listening(page: Browser) -> None:
    page.click("#live-start")
    page.wait(lambda: page.text("#live-state") == "Listening")


def test_captions_grow_and_end_as_the_transcript(page: Browser) -> None:
    watch_partials(page)
    start_listening(page)
    page.find("#live-captions li")
    page.click("#live-start")
    page.wait(lambda: page.text("#live-state") == "Stopped")
    assert page.texts("#live-captions li span:last-child") == [SAID]
    partials = [each for each in page.run("return window.partials") if each]
    assert len(set(partials)) > 1
    assert all(SAID.startswith(each) for each in partials)
    assert partials == sorted(partials, key=len)
    (times,) = page.texts("#live-captions .time")
    start_s, end_s = (60 * int(m) + float(s) for m, s in re.findall(r"(\d+):([\d.]+)", times))
    assert SILENCE_S / 2 < start_s < end_s < SILENCE_S * 2
    assert page.text("#live-partial") == ""


def test_microphone_that_is_denied_is_told(page: Browser) -> None:
    page.permit_microphone(False)
    page.click("#live-start")
    said = page.wait_for_text("#live-error")
    assert said.startswith("The microphone was not allowed.")
    assert page.text("#live-start") == "Start the microphone"


def test_token_that_no_socket_takes_is_told(page: Browser) -> None:
    give_token(page, "a/token==")
    page.click("#live-start")
    assert "cannot send a token with / or =" in page.wait_for_text("#live-error")
    page.wait(lambda: page.find("#live-start").is_enabled())
    assert page.text("#live-start") == "Start the microphone"


def test_captions_go_on_before_another_gateway(
    visit: Visit, server: TrialServer, tmp_path: Path
) -> None:
    port = free_port()
    with run_gateway(tmp_path / "first", server.properties, port=port) as first:
        page = visit(first.url)
        start_listening(page)
    page.wait(lambda: "again" in page.text("#live-state"))
    with run_gateway(tmp_path / "second", server.properties, port=port):
        page.find("#live-captions li")
        page.click("#live-start")
        page.wait(lambda: page.text("#live-state") == "Stopped")
        # What was said while nobody listened is there, too.
        assert page.texts("#live-captions li span:last-child") == [SAID]


@pytest.mark.parametrize("rate_hz", [24_000, 44_100, 48_000])
def test_any_rate_of_a_microphone_becomes_24_khz(page: Browser, rate_hz: int) -> None:
    """A context of the microphone's own rate is what Firefox needs."""
    samples = page.driver.execute_async_script(
        """
        const [rate, done] = arguments;
        (async () => {
          const context = new OfflineAudioContext(1, rate, rate);
          await context.audioWorklet.addModule("page/files/capture.js");
          const node = new AudioWorkletNode(context, "capture", {numberOfOutputs: 0});
          const tone = new OscillatorNode(context, {frequency: 440});
          const heard = [];
          node.port.onmessage = ({data}) => {
            heard.push(...data.samples);
            if (data.last) done(heard);
          };
          tone.connect(node);
          tone.start();
          await context.startRendering();
          node.port.postMessage("stop");
        })();
        """,
        rate_hz,
    )
    heard = np.array(samples) / 32767
    assert abs(len(heard) - 24_000) < 24_000 * 0.01
    tone = np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 24_000)
    # A mean over a sample delays by up to one.
    assert np.abs(heard - tone).max() < 0.12


# A recording


def transcribe(page: Browser, path: Path = RECORDING) -> None:
    page.find("#file").send_keys(str(path))
    page.find("#words button")


def ask_speech(
    url: str, form: str, model: str = "emformer_asr", door: str = "predictions"
) -> bytes:
    with RECORDING.open("rb") as file:
        got = httpx2.post(
            f"{url}/{door}/{model}", files={"file": file}, data={"response_format": form}
        )
    return bytes(got.content)


def watch_seeking(page: Browser) -> None:
    """Note where the player goes, once it can."""
    page.wait(lambda: page.run("return player.readyState") == 4)
    page.run("player.addEventListener('seeked', () => { window.sought = player.currentTime; })")


def test_words_have_times_and_confidence_and_play(page: Browser, gateway_url: str) -> None:
    transcribe(page)
    words = json.loads(ask_speech(gateway_url, "json"))["words"]
    assert page.texts("#words button") == [each["word"] for each in words]
    last = words[-1]
    label = (
        f"{last['word']}, {last['start']:.2f} s to {last['end']:.2f} s, "
        f"confidence {last['confidence'] * 100:.1f} %"
    )
    button = page.find_all("#words button")[-1]
    assert button.get_attribute("aria-label") == label
    watch_seeking(page)
    button.click()
    assert page.wait(lambda: page.run("return window.sought")) == pytest.approx(
        last["start"], abs=0.05
    )
    page.wait(lambda: page.find_all("#words .now") == [button])


def cut(values: np.ndarray, parts: int) -> list[np.ndarray]:
    """Return parts of as equal lengths as can be, wherever they are."""
    edges = np.linspace(0, len(values), parts + 1).astype(int)
    return [values[a:b] for a, b in pairwise(edges)]


def test_waveform_is_drawn_and_seeks(page: Browser) -> None:
    transcribe(page)
    page.wait(lambda: page.find("#waveform").is_displayed())
    ink = page.run(
        "const {width, height} = waveform; const data = waveform.getContext('2d')"
        ".getImageData(0, 0, width, height).data;"
        "return Array.from({length: width}, (_, x) => { let n = 0;"
        "for (let y = 0; y < height; y++) n += data[4 * (y * width + x) + 3] > 0; return n; })"
    )
    drawn = np.array(ink, dtype=float)
    with wave.open(str(RECORDING)) as recording:
        samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
    loudness = [np.ptp(part) for part in cut(samples.astype(float), 100)]
    heights = [part.max() for part in cut(drawn, 100)]
    assert np.corrcoef(loudness, heights)[0, 1] > 0.95
    watch_seeking(page)
    page.click("#waveform")
    half_s = len(samples) / 16_000 / 2
    assert page.wait(lambda: page.run("return window.sought")) == pytest.approx(half_s, abs=0.05)


@pytest.mark.parametrize("form", ["srt", "vtt", "json"])
def test_downloads_are_what_the_handler_writes(page: Browser, gateway_url: str, form: str) -> None:
    transcribe(page)
    page.click(f'[data-download="{form}"]')
    saved = page.download(f"{RECORDING.stem}.{form}")
    written = ask_speech(gateway_url, form)
    if form == "json":
        assert json.loads(saved) == json.loads(written)
    else:
        assert saved == written


def test_alignment_is_shown(page: Browser, gateway_url: str) -> None:
    transcribe(page)
    page.click("#align")
    picture = page.wait(lambda: page.find_all("#alignment:not([hidden]) img"))[0]
    page.wait(lambda: page.run("return arguments[0].complete", picture))
    shown = page.run("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", picture)
    png = ask_speech(gateway_url, "png", door="explanations")
    size = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
    assert shown == size
    assert SAID in (picture.get_attribute("alt") or "")


def drop(page: Browser, name: str, content: bytes) -> None:
    page.run(
        "const files = new DataTransfer();"
        "files.items.add(new File([new Uint8Array(arguments[1])], arguments[0]));"
        "document.querySelector('#drop').dispatchEvent("
        "new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}))",
        name,
        list(content),
    )


def choose_recordings_model(page: Browser, name: str) -> None:
    page.run(
        "const model = document.querySelector('#recording-model'); model.value = arguments[0];"
        "model.dispatchEvent(new Event('change'))",
        name,
    )


def test_dropped_file_is_transcribed_by_the_chosen_model(page: Browser, gateway_url: str) -> None:
    choose_recordings_model(page, "wav2vec2")
    drop(page, "dropped.wav", RECORDING.read_bytes())
    page.find("#words button")
    words = json.loads(ask_speech(gateway_url, "json", "wav2vec2"))["words"]
    assert page.texts("#words button") == [each["word"] for each in words]
    assert page.text("#file-name") == "dropped.wav"


def test_refused_file_is_told_in_the_words_of_the_server(page: Browser, gateway_url: str) -> None:
    drop(page, "letter.txt", b"no audio at all")
    files = {"file": b"no audio at all"}
    refused = httpx2.post(f"{gateway_url}/predictions/emformer_asr", files=files)
    assert refused.status_code == 415
    assert page.wait_for_text("#recording .body > .error") == refused.json()["message"]
    # The next one is not held up by it.
    transcribe(page)
    assert page.text("#recording .body > .error") == ""


# Texts


def submit(page: Browser, kind: str, **fields: str) -> str:
    form = form_of(kind)
    for name, text in fields.items():
        page.write(f'{form} [name="{name}"]', text)
    page.click(f"{form} .primary")
    return form


def test_labels_have_their_scores(page: Browser, gateway_url: str) -> None:
    text = "The room was dirty and I want a refund."
    form = submit(page, "sequence_classification", text=text)
    page.find(f"{form} .labels li")
    said = answer_of(gateway_url, SEQUENCE, {"inputs": text, "parameters": {"top_k": None}})
    assert page.texts(f"{form} .labels li") == [
        f"{each['label']}{each['score'] * 100:.1f} %" for each in said
    ]
    widths = page.run(
        "return Array.from(document.querySelectorAll(arguments[0]),"
        "(bar) => parseFloat(getComputedStyle(bar).backgroundSize) / 100)",
        f"{form} .bar",
    )
    assert widths == pytest.approx([each["score"] for each in said], abs=0.01)


def test_names_are_marked_where_they_stand(page: Browser, gateway_url: str) -> None:
    # Python counts an emoji as one character, JavaScript as two.
    text = "🦥 🦥 Maria Rossi works for Acme in Paris."
    form = submit(page, "token_classification", text=text)
    page.find(f"{form} mark")
    parameters = {"aggregation_strategy": "simple"}
    said = answer_of(gateway_url, TOKENS, {"inputs": text, "parameters": parameters})
    assert "Maria Rossi" in [text[each["start"] : each["end"]] for each in said]
    assert page.texts(f"{form} mark") == [
        f"{text[each['start'] : each['end']]}\u00a0{each['entity_group']}" for each in said
    ]
    for each in said:
        text = text.replace(each["word"], f"{each['word']}\u00a0{each['entity_group']}", 1)
    assert page.texts(f"{form} .marked") == [text]


def test_answer_is_marked_in_its_context(page: Browser, gateway_url: str) -> None:
    asked = {"context": "🦥 Tom Baker lives in Oslo.", "question": "Who lives in Oslo?"}
    form = submit(page, "question_answering", **asked)
    page.find(f"{form} mark")
    said = answer_of(gateway_url, QUESTIONS, {"inputs": asked})
    assert page.text(f"{form} .answer") == f"{said['answer']} {said['score'] * 100:.1f} %"
    assert page.texts(f"{form} mark") == [f"{said['answer']}\u00a0answer"]


def test_story_comes_token_by_token(page: Browser, gateway_url: str) -> None:
    form = form_of("text_generation")
    page.write(f'{form} [name="max_new_tokens"]', "12")
    submit(page, "text_generation", text="Once upon a time")
    ended = page.wait_for_text(f"{form} [data-answer] .state")
    parameters = {"max_new_tokens": 12, "do_sample": False}
    (said,) = answer_of(
        gateway_url, GENERATION, {"inputs": "Once upon a time", "parameters": parameters}
    )
    assert page.text(f"{form} .story") == said["generated_text"]
    assert ended == "12 tokens (as many as asked for)"
    # A text node for each token, as it came.
    nodes = page.run(
        "return document.querySelector(arguments[0]).childNodes.length",
        f"{form} .story span:last-child",
    )
    assert nodes == 12


HEATS: dict[str, tuple[str, dict[str, Any]]] = {
    "sequence_classification": (SEQUENCE, {"text": "The room was dirty."}),
    "token_classification": (TOKENS, {"text": "Maria works for Acme."}),
    "question_answering": (
        QUESTIONS,
        {"question": "Who works for Acme?", "context": "Maria works for Acme."},
    ),
    "text_generation": (GENERATION, {"text": "Once upon a time"}),
}


def importances_of(said: dict[str, Any]) -> list[list[float]]:
    if "entities" in said:
        return [each["importances"] for each in said["entities"]]
    if "generated" in said:
        return list(said["importances"])
    if "importances" in said:
        return [said["importances"]]
    return [said["importances_answer_start"], said["importances_answer_end"]]


@pytest.mark.parametrize("kind", HEATS)
def test_explanation_has_each_word_and_its_number(
    page: Browser, gateway_url: str, kind: str
) -> None:
    model, content = HEATS[kind]
    form = form_of(kind)
    for name, text in content.items():
        page.write(f'{form} [name="{name}"]', text)
    parameters: dict[str, Any] = {"granularity": "word"}
    if kind == "text_generation":
        page.write(f'{form} [name="max_new_tokens"]', "2")
        parameters["max_new_tokens"] = 2
    page.click(f"{form} [data-explain]")
    page.find(f"{form} .heat")
    said = answer_of(gateway_url, model, content | {"parameters": parameters}, "explanations")
    rows = importances_of(said)
    assert len(rows) == len(page.find_all(f"{form} .heat"))
    words = [word.lstrip("Ġ") for word in said["words"]] * len(rows)
    assert page.texts(f"{form} .heat li span") == words
    shown = [float(each.replace("\u2212", "-")) for each in page.texts(f"{form} .heat small")]
    assert shown == pytest.approx([each for row in rows for each in row], abs=0.006)
    strengths = page.run(
        "return Array.from(document.querySelectorAll(arguments[0]),"
        "(each) => Number(each.style.getPropertyValue('--strength')))",
        f"{form} .heat li",
    )
    expected = [abs(each) / max(map(abs, row)) for row in rows for each in row]
    assert strengths == pytest.approx(expected, abs=0.01)


def test_text_that_is_refused_is_told_in_the_words_of_the_server(
    page: Browser, gateway_url: str
) -> None:
    asked = {"question": "who " * 300, "context": "Nobody."}
    form = submit(page, "question_answering", **asked)
    said = answer_of(gateway_url, QUESTIONS, {"inputs": asked})
    assert said["code"] == 413
    assert page.wait_for_text(f"{form} > .error") == said["message"]


# What a server says that is not ours


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


def test_socket_opens_with_the_token(page: Browser) -> None:
    """The token that is named beside the protocol's own is how browsers send it."""
    give_token(page, "sesame")
    start_listening(page)
    page.click("#live-start")
    page.wait(lambda: page.text("#live-state") == "Stopped")
    handshakes = [
        each["params"]["request"]["headers"]
        for each in page.events()
        if each["method"] == "Network.webSocketWillSendHandshakeRequest"
    ]
    assert [each["Sec-WebSocket-Protocol"] for each in handshakes] == [
        "realtime, openai-insecure-api-key.sesame"
    ]


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
