"""Outputs of heads for recordings: those of transformers, alone, in batches and by windows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    pipeline,
)

from speechtext.errors import ImpossibleRequestError, RequestTooLargeError
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.chunks import Windows
from speechtext.speech.encoders import ENCODERS
from speechtext.speech.frame_models import compute_frames
from speechtext.speech.heads.audio_classification import AudioClassification
from speechtext.speech.heads.base import AudioTask
from speechtext.speech.heads.features import FeatureParameters, FeatureSettings, HiddenStates
from speechtext.speech.heads.frame_classification import FrameClassification
from speechtext.speech.heads.speaker_embedding import SpeakerEmbedding, SpeakerEmbeddingSettings
from support.audio_models import extractor_of, write_model

RATE_HZ = 16_000
HEADS: list[tuple[type[AudioTask], Any]] = [
    (AudioClassification, AutoModelForAudioClassification),
    (FrameClassification, AutoModelForAudioFrameClassification),
    (SpeakerEmbedding, AutoModelForAudioXVector),
    (HiddenStates, AutoModel),
]
FAMILIES = sorted(name for name, encoder in ENCODERS.items() if not encoder.transcribes_only)
ADAPTER = {"add_adapter": True, "num_adapter_layers": 1}
# Hubert, SEW and UniSpeech have no head for frames, nor one for voices.
KINDS: list[tuple[type[AudioTask], Any, str, bool, dict[str, Any]]] = [
    (task, auto, family, weighted, {})
    for task, auto in HEADS
    for family in FAMILIES
    for weighted in (False, True)
    if family in {config.model_type for config in auto._model_mapping}
    if not (weighted and auto is AutoModel)
]
# Other heads than that for voices have no adapter before them. Of weighted layers of wav2vec2-bert
# transformers pools as many frames as the adapter would leave.
KINDS += [
    (SpeakerEmbedding, AutoModelForAudioXVector, family, weighted, ADAPTER)
    for family, weighted in (("wavlm", False), ("wavlm", True), ("wav2vec2-bert", False))
]
SECONDS = (0.7, 1.3, 2.1)


def waveforms_of(seconds: tuple[float, ...] = SECONDS) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(int(each * RATE_HZ), generator=chance) for each in seconds]


def reference_of(task: AudioTask, folder: Path, waveform: torch.Tensor) -> Any:
    """Return what transformers says of a waveform by itself."""
    network = task.auto_class.from_pretrained(folder).eval()
    extract = extractor_of(network.config.model_type)
    inputs = extract(waveform.numpy(), sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        return network(**inputs, output_hidden_states=isinstance(task, HiddenStates))


def name_of(value: Any) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("task_class", "auto", "family", "weighted", "sizes"), KINDS, ids=name_of)
def test_outputs_of_heads_are_those_of_transformers(
    task_class: type[AudioTask],
    auto: Any,
    family: str,
    weighted: bool,
    sizes: dict[str, Any],
    tmp_path: Path,
) -> None:
    write_model(tmp_path, auto, family, num_labels=4, use_weighted_layer_sum=weighted, **sizes)
    task = task_class.load(tmp_path)
    waveforms = waveforms_of()
    asked = [task.read_parameters({})] * len(waveforms)
    with torch.inference_mode():
        together = task.compute(waveforms, asked)
    for waveform, found in zip(waveforms, together, strict=True):
        expected = reference_of(task, tmp_path, waveform)
        if isinstance(task, AudioClassification):
            pairs = [(found.whole, expected.logits[0])]
        elif isinstance(task, FrameClassification):
            pairs = [(found, expected.logits[0].sigmoid())]
        elif isinstance(task, SpeakerEmbedding):
            pairs = [(found, torch.nn.functional.normalize(expected.embeddings[0], dim=-1))]
        else:
            pairs = [(found, expected.last_hidden_state[0])]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        with torch.inference_mode():
            (alone,) = task.compute([waveform], asked[:1])
        for one, other in zip(_tensors(found), _tensors(alone), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def _tensors(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [found.whole]


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
@pytest.mark.parametrize("top_k", [None, 1, 3, 100])
def test_labels_are_those_of_the_pipeline(
    function: str | None, problem: str | None, top_k: int | None, tmp_path: Path
) -> None:
    sizes = {"num_labels": 4, "problem_type": problem}
    folder = write_model(tmp_path, AutoModelForAudioClassification, "wav2vec2", **sizes)
    task = AudioClassification.load(folder)
    (waveform,) = waveforms_of((1.3,))
    asked = {"top_k": top_k, "function_to_apply": function}
    (found,) = task.answer([waveform], [task.read_parameters(asked)])
    ask = pipeline("audio-classification", model=str(folder))
    expected = ask(waveform.numpy(), **{k: v for k, v in asked.items() if v is not None})
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


@pytest.mark.parametrize("asked", [{"top_k": 0}, {"top_k": "x"}, {"nothing": 1}, {"by_window": 1}])
def test_parameters_that_cannot_be(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = write_model(tmp_path, AutoModelForAudioClassification, "wav2vec2", num_labels=4)
    task = AudioClassification.load(folder)
    with pytest.raises(ImpossibleRequestError, match=next(iter(asked))):
        task.read_parameters(asked)


@torch.inference_mode()
def test_labels_of_a_long_recording_are_of_all_its_frames(tmp_path: Path) -> None:
    folder = write_model(tmp_path, AutoModelForAudioClassification, "wavlm", num_labels=4)
    short = AudioSettings(chunk_length_s=2, stride_length_s=0.5)
    task = AudioClassification.load(folder, short)
    (waveform,) = waveforms_of((7.3,))
    (found,) = task.compute([waveform], [task.read_parameters({})])
    model = task.frame_model(task.network.projector)
    (frames,) = compute_frames(model, [waveform], Windows(2, 0.5))
    expected = task.network.classifier(frames.mean(dim=0))
    torch.testing.assert_close(found.whole, expected, atol=1e-5, rtol=1e-5)
    windows = task.decode(waveform, found, task.read_parameters({"by_window": True}))
    assert [each["start"] for each in windows] == [0, *(each["end"] for each in windows[:-1])]
    assert windows[-1]["end"] == 7.3
    assert len(windows) > 4
    start, stop = (round(windows[1][edge] / 0.02) for edge in ("start", "end"))
    scores = task.network.classifier(frames[start:stop].mean(dim=0)).softmax(dim=-1)
    assert windows[1]["labels"][0]["score"] == pytest.approx(float(scores.max()), abs=1e-5)


@torch.inference_mode()
def test_windows_of_weighted_layers_end_where_their_frames_do(tmp_path: Path) -> None:
    """Of SEW's layers, a frame of which is two of the output."""
    sizes = {"num_labels": 4, "use_weighted_layer_sum": True}
    folder = write_model(tmp_path, AutoModelForAudioClassification, "sew", **sizes)
    task = AudioClassification.load(folder, AudioSettings(chunk_length_s=2, stride_length_s=0.5))
    (waveform,) = waveforms_of((4.0,))
    (found,) = task.compute([waveform], [None])
    (frames,) = compute_frames(
        task.frame_model(task.network.projector), [waveform], Windows(2, 0.5)
    )
    # Of 640 samples each, a frame sees 720.
    assert len(frames) == (64_000 - 720) // 640 + 1
    expected = task.network.classifier(frames.mean(dim=0))
    torch.testing.assert_close(found.whole, expected, atol=1e-5, rtol=1e-5)
    windows = task.decode(waveform, found, task.read_parameters({"by_window": True}))
    assert [each["end"] for each in windows] == [1.52, 2.56, 4.0]


@torch.inference_mode()
def test_voice_of_a_long_recording_is_of_all_its_frames(tmp_path: Path) -> None:
    folder = write_model(tmp_path, AutoModelForAudioXVector, "wav2vec2", num_labels=4)
    task = SpeakerEmbedding.load(
        folder, SpeakerEmbeddingSettings(chunk_length_s=2, stride_length_s=0.5)
    )
    (waveform,) = waveforms_of((7.3,))
    (found,) = task.compute([waveform], [None])
    model = task.frame_model(task.network.projector)
    (hidden,) = compute_frames(model, [waveform], Windows(2, 0.5))
    for layer in task.network.tdnn:
        hidden = layer(hidden[None])[0]
    pooled = torch.cat([hidden.mean(dim=0), hidden.std(dim=0)])
    expected = torch.nn.functional.normalize(task.network.feature_extractor(pooled), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_recording_without_a_voice_is_refused_and_harms_no_other(tmp_path: Path) -> None:
    folder = write_model(tmp_path, AutoModelForAudioXVector, "wav2vec2", num_labels=4)
    task = SpeakerEmbedding.load(folder)
    # Nine frames of 20 ms are seen at once, and two make a deviation.
    least_s = 10 * 0.02
    short, enough, long = waveforms_of((least_s - 0.01, least_s + 0.01, 1.0))
    refused, *voices = task.answer([short, enough, long], [task.read_parameters({})] * 3)
    assert isinstance(refused, ImpossibleRequestError)
    assert "at least 0.20 s" in refused.message
    for voice in voices:
        assert float(voice.norm()) == pytest.approx(1)
    same = task.compare(voices[1], voices[1])
    assert same["cosine"] == pytest.approx(1)
    assert same["same_speaker"] is True
    assert task.compare(voices[1], -voices[1])["same_speaker"] is False


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        *((family, {}) for family in FAMILIES),
        *((family, ADAPTER) for family in ("wav2vec2", "wav2vec2-bert")),
        ("wav2vec2-conformer", {**ADAPTER, "output_hidden_size": 32}),
    ],
    ids=name_of,
)
def test_features_are_those_of_the_layer(
    family: str, sizes: dict[str, Any], layer: int | None, tmp_path: Path
) -> None:
    task = HiddenStates.load(write_model(tmp_path, AutoModel, family, **sizes))
    (waveform,) = waveforms_of((1.3,))
    whole = reference_of(task, tmp_path, waveform)
    expected = whole.last_hidden_state[0] if layer is None else whole.hidden_states[layer][0]
    (found, mean) = task.answer(
        [waveform] * 2, [FeatureParameters(layer), FeatureParameters(layer, "mean")]
    )
    torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean.values, expected.mean(dim=0), atol=1e-4, rtol=1e-4)
    # SEW's layers, and the output of an adapter, have half as many frames.
    halved = family.startswith("sew") if layer is not None else bool(sizes)
    assert found.frame_s == (0.04 if halved else 0.02)


def test_features_that_cannot_be(tmp_path: Path) -> None:
    folder = write_model(tmp_path, AutoModel, "wav2vec2", num_labels=4)
    task = HiddenStates.load(folder, FeatureSettings(max_values=48 * 60))
    (waveform,) = waveforms_of((1.3,))
    many, layer, mean = task.answer(
        [waveform] * 3,
        [FeatureParameters(), FeatureParameters(3), FeatureParameters(pooling="mean")],
    )
    assert isinstance(many, RequestTooLargeError)
    assert "at most 1.20 s of audio, 60 frames of 48 values" in many.message
    assert isinstance(layer, ImpossibleRequestError)
    assert "from 0 to 2, got 3" in layer.message
    assert mean.values.shape == (48,)
    # What a recording costs is measured with one that is longer than the limit of answers.
    (long,) = waveforms_of((10.0,))
    (probe,) = task.answer([long], [task.read_parameters(task.probe)])
    assert probe.values.shape == (48,)


@pytest.mark.parametrize(
    ("layer", "limit"),
    [
        (None, "at most 0.80 s of audio, 20 frames of 60 values"),
        (1, "at most 0.50 s of audio, 25 frames of 48 values"),
    ],
)
def test_features_of_an_adapter_are_counted_as_they_are(
    layer: int | None, limit: str, tmp_path: Path
) -> None:
    sizes = {**ADAPTER, "output_hidden_size": 60}
    folder = write_model(tmp_path, AutoModel, "wav2vec2", **sizes)
    task = HiddenStates.load(folder, FeatureSettings(max_values=1_200))
    (waveform,) = waveforms_of((1.3,))
    (refused,) = task.answer([waveform], [FeatureParameters(layer)])
    assert isinstance(refused, RequestTooLargeError)
    assert limit in refused.message
