"""Hotwords through a real TorchServe, before archives that search."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from support.common import EXAMPLES
from trials.servers import TrialServer

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
SAID = "turn on the kitchen lights"
# Far more than anybody should ask for: what is heard no longer matters.
TOO_MUCH = {"hotwords": '["turn off"]', "hotword_boost": "10"}


def ask(server: TrialServer, model: str, fields: dict[str, Any]) -> httpx2.Response:
    address = server.properties["inference_address"]
    file = {"file": ("speech.wav", SPEECH, "audio/wav")}
    return httpx2.post(f"{address}/predictions/{model}", files=file, data=fields, timeout=120)


@pytest.fixture(params=["emformer_asr", "wav2vec2"])
def model(request: pytest.FixtureRequest) -> str:
    """Return the name of a model that searches."""
    if request.param == "wav2vec2":
        pytest.importorskip("kenlm", reason="the extra lm is not installed")
    return str(request.param)


def test_requests_that_come_together_have_hotwords_of_their_own(
    search_server: TrialServer, model: str
) -> None:
    wanted: list[tuple[dict[str, Any], int]] = [
        ({}, 200),
        (TOO_MUCH, 200),
        ({"hotwords": '["kitchen lights"]'}, 200),
        ({"hotwords": '["7"]'}, 422),
    ] * 3
    with ThreadPoolExecutor(len(wanted)) as pool:
        replies = list(pool.map(lambda case: ask(search_server, model, case[0]), wanted))
    assert [reply.status_code for reply in replies] == [status for _, status in wanted]
    for number, reply in enumerate(replies):
        if number % 4 in (0, 2):
            assert reply.text.lower() == SAID
    assert all("turn off" in reply.text.lower() for reply in replies[1::4])
    assert {reply.json()["type"] for reply in replies[3::4]} == {"UnknownSpelling"}


def test_of_fields_of_one_name_the_last_counts(search_server: TrialServer, model: str) -> None:
    lists = ['["turn off"]', "[]"]
    fields = {"hotwords": lists, "hotword_boost": "10"}
    assert ask(search_server, model, fields).text.lower() == SAID
    fields["hotwords"] = lists[::-1]
    assert "turn off" in ask(search_server, model, fields).text.lower()


def test_json_has_a_list_of_its_own(search_server: TrialServer, model: str) -> None:
    address = search_server.properties["inference_address"]
    content = {"data": base64.b64encode(SPEECH).decode(), "hotwords": ["turn off"]}
    for boost, heard in ((0, False), (10, True)):
        reply = httpx2.post(
            f"{address}/predictions/{model}", json={**content, "hotword_boost": boost}, timeout=120
        )
        assert ("turn off" in reply.text.lower()) == heard
    reply = httpx2.post(
        f"{address}/predictions/{model}?hotwords=nonsense", json=content, timeout=120
    )
    assert reply.status_code == 200


def test_segments_and_hotwords(search_server: TrialServer, model: str) -> None:
    reply = ask(search_server, model, {**TOO_MUCH, "response_format": "ndjson"})
    *segments, summary = map(json.loads, reply.text.splitlines())
    assert "turn off" in summary["text"].lower()
    assert " ".join(segment["text"] for segment in segments) == summary["text"]
