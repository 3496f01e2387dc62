"""Explanations of a transcript's word, as an archive answers them."""

import base64
import json
from typing import Any

import pytest

from support.common import EXAMPLES, LoadModel
from support.recordings import read_samples, write_wav

RECORDING = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
EXPLAIN = {"explain": "True"}


def test_word_is_explained_in_every_form_of_a_request(load_model: LoadModel) -> None:
    encoded = base64.b64encode(RECORDING).decode()
    model = load_model("wav2vec2")
    rows: list[dict[str, Any]] = [
        {"data": RECORDING, "target": b"kitchen", "stretch_s": b"0.2"},
        {"body": {"data": encoded, "target": 3, "stretch_s": 0.2}},
        {"body": {"data": encoded, "parameters": {"target": "KITCHEN", "stretch_s": 0.2}}},
        {"data": RECORDING},
        {"data": RECORDING, "target": b"3", "response_format": b"png"},
        {"data": RECORDING},
    ]
    form, number, nested, whole, picture, plain = model.answer(rows, [EXPLAIN] * 5 + [{}])
    assert [each.status for each in (form, number, nested, whole, picture, plain)] == [200] * 6
    assert form.answer["word"]["word"] == "KITCHEN"
    assert form.answer == number.answer == nested.answer
    assert "alternatives" in whole.answer["words"][0]
    assert bytes(picture.answer).startswith(b"\x89PNG")
    assert plain.answer == "TURN ON THE KITCHEN LIGHTS"
    (alone,) = model.answer(rows[:1], [EXPLAIN])
    assert alone.answer == form.answer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "garden"}, "a word of the transcript, or its number from 0 to 4"),
        ({"target": "on", "stretch_s": 0}, "stretch_s"),
        ({"target": "on", "method": "magic"}, "method"),
        ({"target": "on", "n_steps": 100_000}, "n_steps"),
    ],
)
def test_what_cannot_be_is_refused(
    fields: dict[str, Any], message: str, load_model: LoadModel
) -> None:
    row = {"data": RECORDING} | {name: json.dumps(each).encode() for name, each in fields.items()}
    bad, good = load_model("wav2vec2").answer([row, {"data": RECORDING}], [EXPLAIN] * 2)
    assert (bad.status, good.status) == (422, 200)
    assert message in bad.answer["message"]


def test_nothing_said_is_nothing_to_explain(load_model: LoadModel) -> None:
    silence = write_wav(0 * read_samples(EXAMPLES / "turn_on_the_kitchen_lights.wav"))
    (reply,) = load_model("wav2vec2").answer([{"data": silence, "target": b"0"}], [EXPLAIN])
    assert reply.status == 422
    assert "nothing is said" in reply.answer["message"]


def test_emformer_says_that_it_explains_no_word(load_model: LoadModel) -> None:
    (reply,) = load_model("emformer_asr").answer([{"data": RECORDING, "target": b"on"}], [EXPLAIN])
    assert reply.status == 422
    assert "only models for CTC" in reply.answer["message"]
