"""Live captions of the page, from a microphone that plays a recording."""

import re
from pathlib import Path

import numpy as np
import pytest

from serving.configuration import free_port
from support.browser import SILENCE_S, Browser, Visit
from support.page_actions import SAID, give_token, start_listening
from trials.gateways import run_gateway
from trials.servers import TrialServer


def watch_partials(page: Browser) -> None:
    page.run(
        "window.partials = []; new MutationObserver(() => window.partials.push("
        "document.querySelector('#live-partial').textContent))"
        ".observe(document.querySelector('#live-partial'), {childList: true})"
    )


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


def test_samples_for_a_closing_socket_are_kept(page: Browser) -> None:
    """The browser complains of what is sent while a socket closes, and loses it."""
    said = page.driver.execute_async_script(
        """
        const done = arguments[0];
        const Real = WebSocket;
        let socket;
        window.WebSocket = class extends Real {
          constructor(...given) { super(...given); socket = this; }
        };
        const model = document.querySelector("#live-model").value;
        import(new URL("page/files/realtime.js", document.baseURI)).then(({LiveTranscription}) => {
          const session = new LiveTranscription(model, {
            state: (name) => name === "listening" && queueMicrotask(() => {
              socket.close();
              session.append(new Int16Array(2400));
              session.finish().then(() => done(socket.bufferedAmount));
            }),
            partial: () => {}, error: done, ended: () => done("ended"),
          });
          session.open();
        });
        """
    )
    assert said == 0


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


# A server that takes sessions as `obey` says, and a clock that does not wait.
CAPTIONS_BEFORE = """
const done = arguments[arguments.length - 1];
let opened = 0, closed = 0;
const wait = window.setTimeout;
window.setTimeout = (run) => wait(run, 0);
window.WebSocket = class extends EventTarget {
  static OPEN = 1;
  readyState = 1;
  constructor() {
    super();
    opened += 1;
    queueMicrotask(() => {
      this.dispatchEvent(new Event("open"));
      this.say({type: "session.created"});
    });
  }
  say(event) {
    this.dispatchEvent(new MessageEvent("message", {data: JSON.stringify(event)}));
  }
  close(code) {
    if (this.readyState === 1) closed += 1;
    this.readyState = 3;
    this.dispatchEvent(new CloseEvent("close", {code}));
  }
  send(text) { queueMicrotask(() => obey(this, JSON.parse(text))); }
};
import(new URL("page/files/realtime.js", document.baseURI)).then(({LiveTranscription}) => {
  const errors = [];
  const session = new LiveTranscription("any", {
    state: (name) => name === "listening" && session.append(new Int16Array(2400)),
    partial: () => {}, completed: () => {},
    error: (message) => errors.push(message),
    ended: () => done({opened, closed, errors}),
  });
  session.open();
});
"""


def test_model_whose_places_stay_taken_is_given_up(page: Browser) -> None:
    """The server takes the session, and finds no place for its first samples."""
    found = page.driver.execute_async_script(
        """
        const obey = (socket, {type}) => {
          if (type === "session.update") socket.say({type: "session.updated"});
          else socket.close(1013);
        };
        """
        + CAPTIONS_BEFORE
    )
    assert found["opened"] == 1 + 6
    assert "1013" in found["errors"][-1]


def test_session_whose_model_is_refused_ends(page: Browser) -> None:
    found = page.driver.execute_async_script(
        """
        const error = {type: "invalid_request_error", code: "model_not_found", message: "Gone."};
        const obey = (socket) => socket.say({type: "error", error});
        """
        + CAPTIONS_BEFORE
    )
    assert found == {"opened": 1, "closed": 1, "errors": ["Gone."]}


def test_nothing_is_asked_while_no_model_is_ready(page: Browser) -> None:
    page.run("document.querySelector('#live-model').replaceChildren()")
    page.click("#live-start")
    assert page.wait_for_text("#live-error") == "No model is ready yet."
    assert page.text("#live-start") == "Start the microphone"
