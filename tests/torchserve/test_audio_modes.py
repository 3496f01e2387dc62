"""Archives of models that do something else than transcribe, as a worker loads them."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openai.types import CreateEmbeddingResponse
from safetensors.torch import load

from archives.errors import BuildError, SourceError
from serving.local import LocalModel, load_archive
from speechtext.allowance import plan_seconds
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.audio import decode_audio
from speechtext.speech.costs import PROBE_S, SpeechCost
from support.audio_models import AUTO_CLASSES, NAMES, build_audio_archive, write_checkpoint
from support.common import EXAMPLES

RECORDING = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
OTHER = next(path for path in sorted(EXAMPLES.glob("*.wav")) if "kitchen" not in path.name)
RATE_HZ = 16_000
Load = Callable[..., LocalModel]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a small random checkpoint for each mode."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in AUTO_CLASSES}
    for mode, folder in folders.items():
        write_checkpoint(folder, mode)
    return folders


@pytest.fixture
def build(checkpoints: dict[str, Path], tmp_path: Path) -> Load:
    """Return a function that builds and loads an archive of a mode, from a mode's checkpoint."""

    def build_and_load(mode: str, source: str | None = None, **keys: Any) -> LocalModel:
        return load_archive(
            build_audio_archive(tmp_path, checkpoints[source or mode], mode, **keys)
        )

    return build_and_load


def waveform_of(recording: bytes) -> torch.Tensor:
    return decode_audio(recording, RATE_HZ, 60)


def test_labels_in_every_form_of_a_request(build: Load) -> None:
    model = build("audio_classification")
    encoded = base64.b64encode(RECORDING).decode()
    task = model.handler.mode.task
    (expected,) = task.answer([waveform_of(RECORDING)], [task.read_parameters({})])
    whole, hub, form, best = model.answer(
        [
            {"body": RECORDING},
            {"body": {"inputs": encoded, "parameters": {"top_k": 2}}},
            {"data": RECORDING, "top_k": b"2", "function_to_apply": b"none"},
            {"body": {"data": encoded, "top_k": 1}},
        ]
    )
    assert {each.status for each in (whole, hub, form, best)} == {200}
    assert [each["label"] for each in whole.answer] == [each["label"] for each in expected]
    assert sum(each["score"] for each in whole.answer) == pytest.approx(1)
    for ours, theirs in zip(whole.answer, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert [each["label"] for each in hub.answer] == [each["label"] for each in whole.answer[:2]]
    assert sum(each["score"] for each in form.answer) != pytest.approx(1)
    assert best.answer[0]["label"] == whole.answer[0]["label"]
    assert {each["label"] for each in whole.answer} == set(NAMES.values())


def test_one_bad_request_fails_no_other(build: Load) -> None:
    model = build("audio_classification")
    good, damaged, unknown, shape, form = model.answer(
        [
            {"body": RECORDING},
            {"body": b"no recording"},
            {"data": RECORDING, "top_k": b"none"},
            {"body": {"data": base64.b64encode(RECORDING).decode(), "parameters": [1]}},
            {"data": RECORDING, "response_format": b"vtt"},
        ]
    )
    assert [each.status for each in (good, damaged, unknown, shape, form)] == [
        *(200, 415, 422, 422, 422)
    ]
    assert "top_k" in unknown.answer["message"]
    assert "parameters to be a JSON object, got a list" in shape.answer["message"]
    assert "response_format to be one of json" in form.answer["message"]


def test_explanations_beside_predictions(build: Load) -> None:
    model = build("audio_classification")
    rows = [
        {"body": RECORDING},
        {"data": RECORDING, "target": b"dim", "method": b"integrated_gradients", "n_steps": b"4"},
        {"data": RECORDING, "response_format": b"png"},
        {"data": RECORDING, "target": b"nothing"},
    ]
    headers = [{}, *[{"explain": "True"}] * 3]
    labels, gradients, picture, unknown = model.answer(rows, headers)
    assert [each.status for each in (labels, gradients, picture, unknown)] == [200, 200, 200, 422]
    assert (gradients.answer["target"], gradients.answer["method"]) == (
        *("dim", "integrated_gradients"),
    )
    assert gradients.answer["prediction"] == labels.answer[0]["label"]
    assert gradients.answer["stretches"][-1]["end"] == pytest.approx(
        len(waveform_of(RECORDING)) / RATE_HZ, abs=1e-3
    )
    assert picture.answer.startswith(b"\x89PNG")
    assert (
        "target to be one of off, on, dim, by name or number, got another"
        in (unknown.answer["message"])
    )


def test_bad_target_takes_no_time_of_its_neighbours(build: Load) -> None:
    """The three fit together, once."""
    model = build("audio_classification")
    rows = [{"body": RECORDING}, {"body": RECORDING}, {"data": RECORDING, "target": b"nothing"}]
    waveform = waveform_of(RECORDING)
    passes = AudioExplanationParameters(target="nothing").passes(len(waveform))
    each_s = 0.9 * plan_seconds(120) / (2 + passes)
    model.handler.mode.task.cost = SpeechCost(each_s * PROBE_S * RATE_HZ / len(waveform))
    runs: list[int] = []
    model.handler.mode.task.encoder.network.register_forward_hook(lambda *_: runs.append(1))
    replies = model.answer(rows, [{}, {}, {"explain": "True"}])
    assert [each.status for each in replies] == [200, 200, 422]
    # None of them was answered again.
    assert len(runs) == 2
    assert replies[0].answer == replies[1].answer


def test_segments_as_json_and_rttm(build: Load) -> None:
    model = build("frame_classification")
    rows = [
        {"data": RECORDING, "threshold": b"0.4"},
        {"data": RECORDING, "threshold": b"0.4", "response_format": b"rttm"},
        {"data": RECORDING, "threshold": b"1.5"},
    ]
    segments, rttm, refused = model.answer(rows)
    assert segments.status == rttm.status == 200
    assert refused.status == 422
    assert segments.answer
    lines = [line.split() for line in rttm.answer.splitlines()]
    assert [(line[3], line[7]) for line in lines] == [
        (f"{each['start']:.3f}", each["label"]) for each in segments.answer
    ]
    ends = [each["end"] for each in segments.answer]
    assert max(ends) <= len(waveform_of(RECORDING)) / RATE_HZ
    assert model.service.context.get_response_headers(1)["content-type"].startswith("text/x-rttm")


def test_voices_and_how_alike_they_are(build: Load) -> None:
    model = build("speaker_embedding", threshold=0.5)
    other = OTHER.read_bytes()
    encoded = {
        "data": base64.b64encode(RECORDING).decode(),
        "other": base64.b64encode(other).decode(),
    }
    one, two, same, apart, json_apart = model.answer(
        [
            {"body": RECORDING},
            {"body": other},
            {"data": RECORDING, "other": RECORDING},
            {"data": RECORDING, "other": other},
            {"body": encoded},
        ]
    )
    first, second = (CreateEmbeddingResponse.model_validate(each.answer) for each in (one, two))
    assert first.model == "speaker_embedding"
    vectors = torch.tensor([each.data[0].embedding for each in (first, second)])
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert same.answer == {
        "cosine": pytest.approx(1),
        "threshold": 0.5,
        "same_speaker": True,
    }
    assert apart.answer["cosine"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert json_apart.answer["cosine"] == pytest.approx(apart.answer["cosine"], abs=1e-5)


def test_features_as_json_and_safetensors(build: Load) -> None:
    model = build("features")
    whole, packed, mean, missing = model.answer(
        [
            {"data": RECORDING, "layer": b"1"},
            {"data": RECORDING, "layer": b"1", "response_format": b"safetensors"},
            {"data": RECORDING, "layer": b"1", "pooling": b"mean"},
            {"data": RECORDING, "layer": b"3"},
        ]
    )
    values = torch.tensor(whole.answer["values"])
    assert list(values.shape) == whole.answer["shape"]
    assert whole.answer["frame_seconds"] == 0.02
    torch.testing.assert_close(load(packed.answer)["features"], values)
    torch.testing.assert_close(torch.tensor(mean.answer["values"]), values.mean(dim=0))
    assert missing.status == 422
    assert "layer to be from 0 to 2, got 3" in missing.answer["message"]


@pytest.mark.parametrize("mode", sorted(AUTO_CLASSES))
def test_models_say_what_they_are(build: Load, mode: str) -> None:
    model = build(mode)
    context = model.service.context
    context.request_processor = []
    (said,) = model.answer([{}], [{"describe": "True"}])
    assert said.answer["kind"] == mode
    assert json.loads(json.dumps(said.answer)) == said.answer
    assert said.answer["limits"]["max_audio_seconds"] <= 3600
    has_labels = mode in {"audio_classification", "frame_classification"}
    assert said.answer["labels"] == (list(NAMES.values()) if has_labels else [])
    (explanation,) = model.answer([{"body": RECORDING}], [{"explain": "True"}])
    assert said.answer["explainable"] is (mode == "audio_classification")
    assert explanation.status == (200 if said.answer["explainable"] else 422)


@pytest.mark.parametrize(
    ("mode", "source", "keys", "message"),
    [
        (
            *("audio_classification", None, {"threshold": 1}),
            r"handler\.threshold: expected one of the keys mode, dtype, attn_implementation, ",
        ),
        ("speaker_embedding", None, {"threshold": 2}, "handler.threshold: .*less than or equal"),
        ("features", None, {"chunk_length_s": 1, "stride_length_s": 1}, "more than twice"),
        (
            *("features", None, {"chunk_length_s": 1.01, "stride_length_s": 0.5}),
            r"features.yaml: handler.chunk_length_s: expected .* got 50 and 25 frames",
        ),
    ],
)
def test_mistakes_in_the_yaml_stop_the_load(
    build: Load, mode: str, source: str | None, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(mode, source, **keys)


def test_unknown_modes_and_heads_stop_the_build(build: Load) -> None:
    for mode in ("diarization", "CTC"):
        with pytest.raises((BuildError, ValueError), match="expected one of ctc, audio_class"):
            build(mode, "features")
    with pytest.raises((BuildError, SourceError, ValueError), match=r"without .*classifier"):
        build("audio_classification", "features")
