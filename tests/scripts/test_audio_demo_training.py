"""The demo models of labels, voices and speakers: their worlds, losses, scores and trainings."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
)

from demo_models import (
    audio_commands,
    audio_speakers,
    audio_voiced,
    audio_voices,
    command_grammar,
    heads,
    speakers,
    speech_training,
)
from demo_models.conversations import Conversation, Spoken, Turn, converse
from demo_models.espeak import SAMPLE_RATE_HZ
from demo_models.speaker_scores import diarization_error_rate, find_equal_error
from demo_models.speaker_words import count_wrong
from demo_models.speech_corpus import Utterance
from demo_models.speech_training import Recipe
from speechtext.speech.transcripts import Word

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def noise(samples: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(-9_000, 9_000, samples, dtype=np.int16)


def people(count: int, sentences: int = 4) -> list[list[Spoken]]:
    return [
        [Spoken(noise(8_000 + 900 * n, seed=100 * who + n), f"{who} {n}") for n in range(sentences)]
        for who in range(count)
    ]


def test_speakers_of_different_sets_share_neither_voice_nor_words() -> None:
    planned = speakers.plan()
    voices = {name: {each.voice for each in own} for name, own in planned.items()}
    variants = {name: {each.partition("+")[2] for each in own} for name, own in voices.items()}
    for one, other in itertools.combinations(variants.values(), 2):
        assert not one & other
    trained = speakers.say("training", planned["training"][:40], ())
    texts = {each.text for each in trained}
    asked = speakers.say("held_out", planned["held_out"][:5], texts)
    assert len(asked) == 5 * speakers.SENTENCES["held_out"]
    assert not {each.text for each in asked} & texts
    assert asked == speakers.say("held_out", planned["held_out"][:5], texts)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("please turn on the kitchen lights", "turn on"),
        ("switch the fan off in the garden", "turn off"),
        ("yes turn on the radio", "turn on"),
        ("unlock the garage door", "open"),
        ("lock the front gate", "close"),
        ("set a timer for twenty one minutes", "set timer"),
        ("raise the volume by ten", "set level"),
        ("set the kitchen lamp orange", "set colour"),
        ("turn left forty degrees", "move"),
        ("move the red box up", "move thing"),
        ("stop the music", "play"),
        ("what is the weather tomorrow", "ask"),
        ("call one two three", "call"),
        ("seven seven one", "other"),
        ("turn on", "other"),
        ("turn on the banana", "other"),
        ("please no switch off the fan", "turn off"),
        ("turn on the fan", "other"),
        ("stop", "other"),
        ("red box ten", "other"),
    ],
)
def test_what_a_sentence_is_for(text: str, label: str) -> None:
    assert audio_commands.intent_of(text) == label


def test_every_label_is_said() -> None:
    import random

    rng = random.Random(0)
    said = {audio_commands.intent_of(command_grammar.command(rng)) for _ in range(3_000)}
    assert said == set(audio_commands.LABELS)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(min_value=1, max_value=4))
def test_conversation_is_its_turns_and_noise(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    talk = converse(people(count), 12.0, rng)
    assert len(talk.waveform) == 12 * SAMPLE_RATE_HZ
    assert np.abs(talk.waveform).max() <= 1
    assert {turn.speaker for turn in talk.turns} == set(range(count))
    assert [turn.start for turn in talk.turns] == sorted(turn.start for turn in talk.turns)
    for who in range(count):
        own = [turn for turn in talk.turns if turn.speaker == who]
        assert all(one.stop < other.start for one, other in itertools.pairwise(own))
    # Where somebody speaks it is louder than where nobody does.
    active = np.zeros(len(talk.waveform), dtype=bool)
    for turn in talk.turns:
        active[turn.start : turn.stop] = True
    if not active.all():
        assert talk.waveform[active].std() > talk.waveform[~active].std()


def test_activity_is_of_the_middles_of_frames() -> None:
    talk = Conversation(np.zeros(3_200, np.float32), [Turn(0, 1_000, 1), Turn(1_600, 3_200, 0)])
    active = talk.activity(frames=8, stride=320, field=640, speakers=2)
    middles = [320 * frame + 320 for frame in range(8)]
    assert active[:, 1].tolist() == [float(each < 1_000) for each in middles]
    assert active[:, 0].tolist() == [float(each >= 1_600) for each in middles]


def test_sounds_that_are_no_speech_are_heard_now_and_then() -> None:
    heard = audio_voiced.sounds(10 * SAMPLE_RATE_HZ, np.random.default_rng(0))
    loud = np.abs(heard) > 0
    assert 0.1 < loud.mean() < 0.9
    assert np.abs(heard).max() < 1


def test_loss_is_that_of_the_best_order_of_speakers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 20, 4, generator=generator)
    active = (torch.rand(3, 20, 4, generator=generator) > 0.6).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    best = [
        min(
            entropy(one, other[:, list(order)]).item() for order in itertools.permutations(range(4))
        )
        for one, other in zip(logits, active, strict=True)
    ]
    found = audio_speakers.permutation_free_loss(logits, active)
    assert found.item() == pytest.approx(np.mean(best), abs=1e-6)


def test_equal_error_rate_of_known_pairs() -> None:
    apart = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]))
    assert find_equal_error(apart, [0, 0, 1, 1]).rate == 0
    assert find_equal_error(apart, [0, 1, 0, 1]).rate == 0.5
    generator = torch.Generator().manual_seed(0)
    chance = torch.nn.functional.normalize(torch.randn(120, 8, generator=generator))
    found = find_equal_error(chance, [n % 10 for n in range(120)])
    assert found.rate == pytest.approx(0.5, abs=0.03)
    assert found.threshold == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        ([[1, 0], [1, 0], [0, 1], [0, 0]], 0.0),
        ([[0, 1], [0, 1], [1, 0], [0, 0]], 0.0),
        ([[1, 0], [1, 0], [1, 0], [0, 0]], 1 / 3),
        ([[0, 0], [0, 0], [0, 0], [0, 0]], 1.0),
        ([[1, 0], [1, 0], [0, 1], [1, 0]], 1 / 3),
        ([[1, 1], [1, 0], [0, 1], [0, 0]], 1 / 3),
        ([[1], [1], [1], [1]], 2 / 3),
    ],
)
def test_diarization_error_rate_of_known_frames(said: Any, rate: float) -> None:
    true = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    found = diarization_error_rate([np.array(said)], [true])
    assert found == pytest.approx(rate)


def test_words_are_of_who_speaks_most_while_they_last() -> None:
    talk = Conversation(
        np.zeros(48_000, np.float32),
        [Turn(0, 16_000, 0), Turn(16_000, 32_000, 1), Turn(32_000, 48_000, 0)],
    )
    words = [
        Word("a", 0.1, 0.9, 1.0, "Speaker 2"),
        Word("b", 0.9, 1.4, 1.0, "Speaker 1"),
        Word("c", 1.5, 1.9, 1.0, "Speaker 2"),
        Word("d", 2.1, 2.8, 1.0, "Speaker 2"),
    ]
    assert count_wrong(words, talk) == (1, 4)


def test_utterance_is_trimmed_to_what_is_heard() -> None:
    samples = np.concatenate([np.zeros(500), noise(2_000, 0), np.zeros(900)]).astype(np.int16)
    trimmed = heads.trim(Utterance(samples, "", ""))
    assert 1_990 <= len(trimmed) <= 2_000


@given(SEEDS, st.integers(min_value=100, max_value=30_000))
def test_crop_is_as_long_as_asked_and_out_of_what_is_said(seed: int, samples: int) -> None:
    spoken = [np.full(3_000 + 500 * n, n + 1, np.int16) for n in range(3)]
    cropped = heads.crop(spoken, samples, np.random.default_rng(seed))
    assert len(cropped) == samples
    assert set(cropped.tolist()) <= {1, 2, 3}


def quick() -> Recipe:
    return Recipe(steps=2, peak_learning_rate=1e-3, max_gradient_norm=1.0)


@pytest.fixture
def utterances() -> list[Utterance]:
    texts = ["turn on the fan", "call one two", "seven"]
    return [Utterance(noise(9_000 + 700 * n, n), text, "") for n, text in enumerate(texts)]


def test_commands_train_into_a_model_that_loads(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    trainee = audio_commands.CommandsTrainee(tmp_path, utterances)
    drawn = audio_commands.draw(utterances, np.random.default_rng(0))
    speech_training.fit(trainee, quick(), drawn)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert list(model.config.id2label.values()) == list(audio_commands.LABELS)


def test_voices_train_into_a_model_without_the_names_of_its_training(tmp_path: Path) -> None:
    spoken = [[noise(40_000, seed=who)] for who in range(60)]
    trainee = audio_voices.VoicesTrainee(tmp_path, len(spoken), [spoken[0] * 2, spoken[1] * 2])
    drawn = audio_voices.draw(spoken, np.random.default_rng(0))
    trainee.scale_head(next(drawn))
    speech_training.fit(trainee, quick(), drawn)
    model, report = AutoModelForAudioXVector.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.objective.weight.shape == (audio_voices.EMBEDDING_SIZE, 2)
    assert trainee.network.objective.weight.shape == (audio_voices.EMBEDDING_SIZE, 60)
    embedding = model(torch.randn(1, 16_000)).embeddings[0]
    assert len(embedding) == audio_voices.EMBEDDING_SIZE


@pytest.mark.parametrize(
    ("trainee_class", "module", "labels"),
    [
        (audio_speakers.SpeakersTrainee, audio_speakers, 4),
        (audio_voiced.VoicedTrainee, audio_voiced, 1),
    ],
)
def test_frames_train_into_a_model_that_loads(
    trainee_class: Any, module: Any, labels: int, tmp_path: Path
) -> None:
    spoken, rng = people(5), np.random.default_rng(0)
    trainee = trainee_class(tmp_path, next(module.draw(spoken, rng))[:2])
    speech_training.fit(trainee, quick(), module.draw(spoken, rng))
    model = AutoModelForAudioFrameClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert model(torch.randn(1, 16_000)).logits.shape == (1, 48, labels)
    extractor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert extractor["do_normalize"]
