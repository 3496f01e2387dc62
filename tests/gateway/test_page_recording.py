"""A recording on the page: words that play, the waveform, files to save, the alignment."""

import json
import wave
from itertools import pairwise

import httpx2
import numpy as np
import pytest

from support.browser import RECORDING, Browser
from support.common import EXAMPLES
from support.page_actions import (
    SAID,
    choose_recordings_model,
    drop,
    transcribe,
)

TALK = EXAMPLES / "conversations" / "two_speakers.wav"


def ask_speech(
    url: str, form: str, model: str = "emformer_asr", path: str = "predictions"
) -> bytes:
    with RECORDING.open("rb") as file:
        got = httpx2.post(
            f"{url}/{path}/{model}", files={"file": file}, data={"response_format": form}
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


def lines_of(page: Browser) -> list[str]:
    """Return words and speakers at once: they are drawn anew."""
    script = "return [...document.querySelectorAll('#words li')].map((each) => each.textContent)"
    return list(page.run(script))


def test_words_stand_below_who_said_them(page: Browser, gateway_url: str) -> None:
    page.click("#diarize")
    transcribe(page, TALK)
    with TALK.open("rb") as file:
        form = {"response_format": "json", "diarize": "true"}
        answer = httpx2.post(
            f"{gateway_url}/predictions/emformer_asr", files={"file": file}, data=form
        ).json()
    expected: list[str] = []
    for before, word in pairwise([{"speaker": None}, *answer["words"]]):
        expected += [word["speaker"]] * (word["speaker"] != before["speaker"]) + [word["word"]]
    assert len(set(expected) & {"Speaker 1", "Speaker 2"}) == 2
    assert lines_of(page) == expected
    page.click('[data-download="vtt"]')
    assert b"<v Speaker 1>" in page.download(f"{TALK.stem}.vtt")
    page.click("#diarize")
    page.wait(lambda: lines_of(page) == [each["word"] for each in answer["words"]])


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
    png = ask_speech(gateway_url, "png", path="explanations")
    size = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
    assert shown == size
    assert SAID in (picture.get_attribute("alt") or "")


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
