"""Which stretches of a recording a label depends on: Captum's numbers, and what their loss does."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from matplotlib import image
from transformers import AutoModelForAudioClassification

from speechtext.errors import ImpossibleRequestError
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.heads.audio_classification import AudioClassification
from speechtext.speech.heads.explanation import draw_explanation, write_explanation
from support.audio_models import extractor_of, write_model

RATE_HZ = 16_000
NAMES = {0: "off", 1: "on", 2: "灯"}
VARIANTS = [
    ("wav2vec2", {}),
    ("wavlm", {"use_weighted_layer_sum": True}),
    ("sew", {}),
    ("wav2vec2-bert", {}),
]


def load_task(folder: Path, family: str, **sizes: Any) -> AudioClassification:
    write_model(folder, AutoModelForAudioClassification, family, id2label=NAMES, **sizes)
    return AudioClassification.load(folder)


def inputs_of(folder: Path, waveform: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Return transformers' own network, and what it takes of a waveform."""
    network = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extract = extractor_of(network.config.model_type)
    asked = extract(waveform.numpy(), sampling_rate=RATE_HZ, return_tensors="pt")
    return network, asked[network.main_input_name]


def speak(seconds: float = 1.64) -> torch.Tensor:
    """Return bursts of noise of various loudness."""
    chance = torch.Generator().manual_seed(1)
    noise = torch.randn(int(seconds * RATE_HZ), generator=chance)
    loudness = torch.rand(40, generator=chance).repeat_interleave(len(noise) // 40 + 1)
    return 0.1 * noise * loudness[: len(noise)]


@pytest.mark.parametrize(("family", "sizes"), VARIANTS)
def test_gradients_are_those_of_captum(family: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    task = load_task(tmp_path, family, **sizes)
    waveform = speak()
    asked = AudioExplanationParameters(method="integrated_gradients", n_steps=8, target=1)
    found = task.explain(waveform, asked)
    network, values = inputs_of(tmp_path, waveform)
    method = IntegratedGradients(lambda each: network(each).logits)
    reference, delta = method.attribute(
        values, baselines=0.0, target=1, n_steps=8, return_convergence_delta=True
    )
    each = reference[0].flatten(1).sum(dim=1) if values.ndim == 3 else reference[0]
    steps = RATE_HZ // 10 // (320 if values.ndim == 3 else 1)
    expected = torch.stack([part.sum() for part in each.split(steps)])
    scores = torch.tensor([stretch.score for stretch in found.stretches])
    torch.testing.assert_close(scores, expected.float(), atol=1e-4, rtol=1e-3)
    assert found.delta == pytest.approx(float(delta[0]), abs=1e-4)
    assert float(scores.sum()) == pytest.approx(found.change + float(delta[0]), abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS)
def test_occlusion_is_what_silence_changes(
    family: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    task = load_task(tmp_path, family, **sizes)
    waveform = speak()
    found = task.explain(waveform, AudioExplanationParameters(stretch_s=0.2, target="on"))
    network, values = inputs_of(tmp_path, waveform)
    whole = network(values).logits[0, 1]
    steps = RATE_HZ // 5 // (320 if values.ndim == 3 else 1)
    expected = []
    for start in range(0, values.shape[1], steps):
        without = values.clone()
        without[:, start : start + steps] = 0
        expected.append(whole - network(without).logits[0, 1])
    scores = torch.tensor([stretch.score for stretch in found.stretches])
    torch.testing.assert_close(scores, torch.stack(expected), atol=1e-4, rtol=1e-3)
    assert found.label == "on"
    assert found.prediction == NAMES[int(network(values).logits[0].argmax())]
    ends = [each.end_s for each in found.stretches]
    assert [each.start_s for each in found.stretches] == [0, *ends[:-1]]
    assert ends[-1] == len(waveform) / RATE_HZ


@torch.no_grad()
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_taking_away_what_counts_most_hurts_most(method: Any, tmp_path: Path) -> None:
    """The curve of deletion: Samek et al. 2017, section 3."""
    task = load_task(tmp_path, "wav2vec2")
    waveform = speak(2.5)
    found = task.explain(waveform, AudioExplanationParameters(method=method, n_steps=32))
    network, values = inputs_of(tmp_path, waveform)
    index = next(index for index, name in NAMES.items() if name == found.label)
    chance = np.random.default_rng(0)
    count = len(found.stretches)
    order = sorted(range(count), key=lambda each: -found.stretches[each].score)

    def drop(chosen: Any) -> float:
        without = values.clone()
        for each in chosen:
            stretch = found.stretches[each]
            start, stop = (round(edge * RATE_HZ) for edge in (stretch.start_s, stretch.end_s))
            without[:, start:stop] = 0
        return float(network(values).logits[0, index] - network(without).logits[0, index])

    for share in (1, 3, 6):
        at_random = [drop(chance.permutation(count)[:share]) for _ in range(30)]
        assert drop(order[:share]) > np.mean(at_random) + np.std(at_random)


def test_what_may_be_asked_for(tmp_path: Path) -> None:
    task = load_task(tmp_path, "wav2vec2")
    with pytest.raises(ImpossibleRequestError, match="one of off, on, 灯, by name or number"):
        task.explain(speak(), AudioExplanationParameters(target="off it"))
    asked = AudioExplanationParameters(target="灯")
    written = write_explanation(task.explain(speak(), asked))
    assert written["target"] == "灯"
    assert written["delta"] is None
    assert len(written["stretches"]) == 17
    # Fifty stretches of a long recording, each a network's pass.
    assert asked.passes(60 * RATE_HZ) == 53
    assert AudioExplanationParameters(method="integrated_gradients").passes(RATE_HZ) == 153


def test_picture_shows_all_stretches(tmp_path: Path) -> None:
    task = load_task(tmp_path, "wav2vec2")
    found = task.explain(speak(), AudioExplanationParameters(target="灯"))
    picture = image.imread(io.BytesIO(draw_explanation(found)), format="png")
    assert picture.shape[:2] == (450, 900)
    orange = (picture[..., 0] > 0.6) & (picture[..., 2] < 0.3)
    assert orange.any()
