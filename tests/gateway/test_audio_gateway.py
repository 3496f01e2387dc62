"""Models that do something else with a recording than transcribe it, through every protocol."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import InferenceClient
from openai.types import CreateEmbeddingResponse

from support.audio_models import AUTO_CLASSES, NAMES, build_audio_archive, write_checkpoint
from support.browser import Browser, Visit
from support.common import EXAMPLES
from support.page_actions import find_violations, form_of
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer, run_server

PATH = EXAMPLES / "turn_on_the_kitchen_lights.wav"
RECORDING = PATH.read_bytes()
SERVED = ("audio_classification", "speaker_embedding", "frame_classification")


@pytest.fixture(scope="module")
def audio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    """Return a TorchServe with a model of each of three modes."""
    store, archives = tmp_path_factory.mktemp("audio_store"), []
    for mode in SERVED:
        source = tmp_path_factory.mktemp(mode)
        write_checkpoint(source, mode)
        archives.append(build_audio_archive(store, source, mode, "default"))
    with run_server(archives=archives, store=store) as running:
        yield running


@pytest.fixture(scope="module")
def audio_gateway(
    audio_server: TrialServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Return a gateway before it."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), audio_server.properties) as running:
        yield running


def ask(url: str, **options: Any) -> Any:
    reply = httpx2.post(url, timeout=60, **options)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_hub_client_gets_labels_from_both(
    audio_server: TrialServer, audio_gateway: RunningGateway
) -> None:
    for address in (audio_server.properties["inference_address"], audio_gateway.url):
        url = f"{address}/predictions/audio_classification"
        client = InferenceClient(model=url)
        found = client.audio_classification(RECORDING)
        assert {each.label for each in found} == set(NAMES.values())
        assert sum(each.score for each in found) == pytest.approx(1)
        (best,) = client.audio_classification(RECORDING, top_k=1)
        assert best.label == found[0].label
        raw = client.audio_classification(RECORDING, function_to_apply="none")
        assert sum(each.score for each in raw) != pytest.approx(1)


def test_protocols_give_what_predictions_gives(audio_gateway: RunningGateway) -> None:
    url = audio_gateway.url
    encoded = base64.b64encode(RECORDING).decode()
    for mode in SERVED:
        whole = ask(f"{url}/predictions/{mode}", content=RECORDING)
        v1 = ask(f"{url}/v1/models/{mode}:predict", json={"instances": [{"b64": encoded}]})
        assert v1["predictions"] == [whole]
        tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [encoded]}
        v2 = ask(f"{url}/v2/models/{mode}/infer", json={"inputs": [tensor]})
        assert v2["outputs"][0]["shape"] == [1]
    tensor = {"name": "audio", "shape": [2], "datatype": "BYTES", "data": [encoded, encoded]}
    asked = {"inputs": [tensor], "parameters": {"top_k": 1}}
    v2 = ask(f"{url}/v2/models/audio_classification/infer", json=asked)
    assert v2["outputs"][0]["shape"][0] == 2


def test_models_are_listed_with_what_they_do(audio_gateway: RunningGateway) -> None:
    listed = httpx2.get(f"{audio_gateway.url}/v2/models/audio_classification").json()
    assert listed["inputs"][0]["name"] == "audio"
    reply = httpx2.post(
        f"{audio_gateway.url}/v1/audio/transcriptions",
        data={"model": "speaker_embedding"},
        files={"file": ("a.wav", RECORDING)},
    )
    assert reply.status_code == 422
    assert "speech recognition" in reply.json()["error"]["message"]
    assert "speaker embedding" in reply.json()["error"]["message"]


def test_two_voices_as_a_form(audio_gateway: RunningGateway) -> None:
    url = f"{audio_gateway.url}/predictions/speaker_embedding"
    one = CreateEmbeddingResponse.model_validate(ask(url, content=RECORDING))
    assert one.model == "speaker_embedding"
    both = ask(url, files={"data": RECORDING, "other": RECORDING})
    assert both["cosine"] == pytest.approx(1)
    assert both["same_speaker"] is True


def test_segments_as_rttm(audio_gateway: RunningGateway) -> None:
    url = f"{audio_gateway.url}/predictions/frame_classification"
    reply = httpx2.post(url, content=RECORDING, headers={"accept": "text/x-rttm"}, timeout=60)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/x-rttm")
    assert all(line.startswith("SPEAKER recording 1 ") for line in reply.text.splitlines())


def test_page_labels_a_recording_and_explains(visit: Visit, audio_gateway: RunningGateway) -> None:
    page = visit(audio_gateway.url)
    form = choose_files(page, "audio_classification", file=PATH)
    page.find(f"{form} .labels li")
    said = ask(f"{audio_gateway.url}/predictions/audio_classification", content=RECORDING)
    assert page.texts(f"{form} .labels li") == [
        f"{each['label']}{each['score'] * 100:.1f} %" for each in said
    ]
    page.click(f"{form} [data-explain]")
    picture = page.find(f"{form} .picture img")
    page.wait(lambda: page.run("return arguments[0].naturalWidth", picture) > 0)


def test_page_shows_who_is_active_when(visit: Visit, audio_gateway: RunningGateway) -> None:
    page = visit(audio_gateway.url)
    form = choose_files(page, "frame_classification", file=PATH)
    page.find(f"{form} .timeline li")
    said = ask(f"{audio_gateway.url}/predictions/frame_classification", content=RECORDING)
    labels = sorted({each["label"] for each in said})
    times = [
        ", ".join(
            f"{each['start']:.2f} s to {each['end']:.2f} s"
            for each in said
            if each["label"] == label
        )
        for label in labels
    ]
    shown = [f"{label}{when}" for label, when in zip(labels, times, strict=True)]
    assert page.texts(f"{form} .timeline li") == shown
    end = max(each["end"] for each in said)
    bars = page.run(
        "return Array.from(document.querySelectorAll(arguments[0]), (bar) => {"
        "const track = bar.parentElement.getBoundingClientRect();"
        "const own = bar.getBoundingClientRect();"
        "return [(own.left - track.left) / track.width, own.width / track.width]})",
        f"{form} .track span",
    )
    ordered = sorted(said, key=lambda each: each["label"])
    for (start, width), each in zip(bars, ordered, strict=True):
        assert start == pytest.approx(each["start"] / end, abs=0.01)
        assert width == pytest.approx((each["end"] - each["start"]) / end, abs=0.01)


def test_page_compares_voices(visit: Visit, audio_gateway: RunningGateway) -> None:
    page = visit(audio_gateway.url)
    form = choose_files(page, "speaker_embedding", file=PATH, other=PATH)
    assert page.wait_for_text(f"{form} .answer strong") == "One voice"
    assert "cosine 1.00" in page.text(f"{form} .answer")
    assert find_violations(page) == []


def test_page_has_no_sounds_where_no_model_hears_them(page: Browser) -> None:
    assert not page.find("#sound").is_displayed()
    assert not page.find("nav [href='#sound']").is_displayed()


def choose_files(page: Browser, kind: str, **files: Path) -> str:
    """Choose the files of a form and send it; return what selects it."""
    form = form_of(kind)
    for name, path in files.items():
        page.find(f'{form} [name="{name}"]').send_keys(str(path))
    page.click(f"{form} .primary")
    return form


def test_modes_are_those_that_were_tried() -> None:
    assert set(SERVED) | {"features"} == set(AUTO_CLASSES)
