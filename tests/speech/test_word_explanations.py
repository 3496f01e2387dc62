"""Which stretches of a recording a word depends on: silence by hand, Captum, and what loss does."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from matplotlib import image
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from repository import ROOT
from speechtext.errors import ImpossibleRequestError
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.audio import decode_audio
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.ctc.word_explanation import (
    WordExplanation,
    draw_word_explanation,
    find_word,
    write_word_explanation,
)
from support.common import EXAMPLES

DEMO = ROOT / "demo_models" / "wav2vec2"
RATE_HZ = 16_000
NAMES = ["turn_on_the_kitchen_lights", "move_the_purple_box_left", "close_the_bathroom_window"]


@pytest.fixture(scope="module")
def recognizer() -> Wav2Vec2Recognizer:
    return Wav2Vec2Recognizer.load(DEMO)


@pytest.fixture(scope="module")
def reference() -> Any:
    """Return transformers' own network."""
    return Wav2Vec2ForCTC.from_pretrained(DEMO, dtype=torch.float32).eval()


def waveform_of(name: str) -> torch.Tensor:
    return decode_audio((EXAMPLES / f"{name}.wav").read_bytes(), RATE_HZ, 60)


def values_of(waveform: torch.Tensor) -> torch.Tensor:
    processor = Wav2Vec2Processor.from_pretrained(DEMO)
    values: torch.Tensor = processor(
        waveform.numpy(), sampling_rate=RATE_HZ, return_tensors="pt"
    ).input_values
    return values


def judge_of(recognizer: Wav2Vec2Recognizer, waveform: torch.Tensor, number: int) -> Any:
    """Return what gives the mean log-probability of a word's labels out of logits."""
    (alignment,) = recognizer.align([waveform])
    places = [
        (frame, token.label)
        for token in alignment.words[number]
        for frame in range(token.start, token.stop)
    ]
    return lambda logits: torch.stack(
        [logits.log_softmax(-1)[0, frame, label] for frame, label in places]
    ).mean()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_occlusion_is_what_silence_changes(
    name: str, recognizer: Wav2Vec2Recognizer, reference: Any
) -> None:
    waveform = waveform_of(name)
    found = recognizer.explain_word(waveform, AudioExplanationParameters(target=2, stretch_s=0.15))
    values, judge = values_of(waveform), judge_of(recognizer, waveform, 2)
    whole = judge(reference(values).logits)
    expected = []
    for start in range(0, values.shape[1], RATE_HZ * 15 // 100):
        without = values.clone()
        without[:, start : start + RATE_HZ * 15 // 100] = 0
        expected.append(whole - judge(reference(without).logits))
    scores = torch.tensor([stretch.score for stretch in found.found.stretches])
    torch.testing.assert_close(scores, torch.stack(expected), atol=2e-4, rtol=1e-3)
    assert float(found.found.outputs[0]) == pytest.approx(float(whole), abs=1e-4)


def test_gradients_are_those_of_captum(recognizer: Wav2Vec2Recognizer, reference: Any) -> None:
    waveform = waveform_of(NAMES[0])
    asked = AudioExplanationParameters(method="integrated_gradients", n_steps=6, target="kitchen")
    found = recognizer.explain_word(waveform, asked)
    judge = judge_of(recognizer, waveform, 3)
    method = IntegratedGradients(lambda each: judge(reference(each).logits)[None])
    expected, delta = method.attribute(
        values_of(waveform), baselines=0.0, n_steps=6, internal_batch_size=1,
        return_convergence_delta=True,
    )  # fmt: skip
    per_stretch = asked.stretch_samples(len(waveform))
    sums = torch.stack([part.sum() for part in expected[0].split(per_stretch)]).float()
    scores = torch.tensor([stretch.score for stretch in found.found.stretches])
    torch.testing.assert_close(scores, sums, atol=1e-3, rtol=1e-2)
    assert found.found.delta == pytest.approx(float(delta[0]), abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_word_hangs_most_on_where_it_is_said(name: str, recognizer: Wav2Vec2Recognizer) -> None:
    waveform = waveform_of(name)
    (transcript,) = recognizer.transcribe([waveform])
    for number, word in enumerate(transcript.words):
        asked = AudioExplanationParameters(target=number, stretch_s=0.1)
        stretches = recognizer.explain_word(waveform, asked).found.stretches
        most = max(stretches, key=lambda each: each.score)
        assert word.start_s - 0.2 <= most.start_s <= word.end_s + 0.1, word.text


@torch.no_grad()
def test_taking_away_what_counts_most_hurts_most(
    recognizer: Wav2Vec2Recognizer, reference: Any
) -> None:
    """The curve of deletion: Samek et al. 2017, section 3."""
    waveform = waveform_of(NAMES[1])
    found = recognizer.explain_word(waveform, AudioExplanationParameters(target="purple"))
    stretches, chance = found.found.stretches, np.random.default_rng(0)
    values, judge = values_of(waveform), judge_of(recognizer, waveform, found.number)
    whole = float(judge(reference(values).logits))

    def loss(chosen: Any) -> float:
        without = values.clone()
        for each in chosen:
            start, stop = (
                round(edge * RATE_HZ) for edge in (stretches[each].start_s, stretches[each].end_s)
            )
            without[:, start:stop] = 0
        return whole - float(judge(reference(without).logits))

    order = sorted(range(len(stretches)), key=lambda each: -stretches[each].score)
    for count in (1, 2, 4):
        random = [loss(chance.permutation(len(stretches))[:count]) for _ in range(12)]
        assert loss(order[:count]) > max(float(np.mean(random)), 0.0)


def test_word_of_a_long_recording_is_explained_in_its_window() -> None:
    recognizer = Wav2Vec2Recognizer.load(
        DEMO, Wav2Vec2Settings(chunk_length_s=4.0, stride_length_s=1.0)
    )
    waveform = torch.cat([waveform_of(name) for name in NAMES * 2])
    (transcript,) = recognizer.transcribe([waveform])
    number = len(transcript.words) - 2
    asked = AudioExplanationParameters(target=number, stretch_s=0.1)
    found = recognizer.explain_word(waveform, asked)
    stretches, word = found.found.stretches, transcript.words[number]
    assert stretches[-1].end_s == pytest.approx(len(waveform) / RATE_HZ)
    assert stretches[-1].end_s - stretches[0].start_s == pytest.approx(4.0, abs=0.1)
    most = max(stretches, key=lambda each: each.score)
    assert word.start_s - 0.2 <= most.start_s <= word.end_s + 0.1
    first = recognizer.explain_word(waveform, AudioExplanationParameters(target=0))
    assert first.found.stretches[0].start_s == 0
    assert first.found.stretches[-1].end_s == pytest.approx(4.0, abs=0.1)


@pytest.fixture(scope="module")
def explanation(recognizer: Wav2Vec2Recognizer) -> WordExplanation:
    asked = AudioExplanationParameters(target="Kitchen", stretch_s=0.2)
    return recognizer.explain_word(waveform_of(NAMES[0]), asked)


def test_json_has_the_words_of_each_stretch(explanation: WordExplanation) -> None:
    written = write_word_explanation(explanation)
    assert (written["target"], written["word"]["word"]) == (3, "KITCHEN")
    assert (written["method"], written["delta"]) == ("occlusion", None)
    start_s, end_s = written["word"]["start"], written["word"]["end"]
    for stretch in written["stretches"]:
        overlaps = stretch["start"] < end_s and start_s < stretch["end"]
        assert ("KITCHEN" in stretch["words"]) == overlaps
    assert {word for each in written["stretches"] for word in each["words"]} >= {"TURN", "LIGHTS"}


def test_picture_is_one(explanation: WordExplanation) -> None:
    pixels = image.imread(io.BytesIO(draw_word_explanation(explanation)))
    assert pixels.shape[:2] == (450, 900)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 100


@pytest.mark.parametrize("target", [3, "3", "kitchen", "Kitchen", "\u0663"])
def test_target_is_a_word_or_its_number(target: Any, explanation: WordExplanation) -> None:
    assert find_word(explanation.words, target) == 3


@pytest.mark.parametrize("target", ["garden", 5, "5", -1, "9" * 5_000, "²", "10"])
def test_target_that_is_no_word_is_refused(target: Any, recognizer: Wav2Vec2Recognizer) -> None:
    with pytest.raises(ImpossibleRequestError, match="number from 0 to 4"):
        recognizer.explain_word(waveform_of(NAMES[0]), AudioExplanationParameters(target=target))
