"""The speech demo training: grammar, corpus, augmentation, schedule and loop, without espeak-ng."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from demo_models import (
    augmentation,
    command_grammar,
    emformer,
    espeak,
    pauses,
    speech_corpus,
    speech_examples,
    speech_training,
    voices,
    wav2vec2,
)
from demo_models.speech_corpus import CorpusPlan, Utterance, word_error_rate
from demo_models.speech_training import AveragedWeights, Recipe, learning_rate
from speechtext.speech.transcripts import Word

DRAWERS = (
    command_grammar.command,
    command_grammar.word_string,
    command_grammar.digit_string,
    command_grammar.stuttering_digit_string,
)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def test_world_has_one_hundred_words() -> None:
    assert len(command_grammar.VOCABULARY) == 100
    assert {"please", "kitchen", "seven", "forty", "and"} <= set(command_grammar.VOCABULARY)


@pytest.mark.parametrize("draw_text", DRAWERS)
@given(seed=SEEDS)
def test_sentences_stay_in_the_vocabulary(
    draw_text: Callable[[random.Random], str], seed: int
) -> None:
    words = draw_text(random.Random(seed)).split()
    assert words
    assert set(words) <= set(command_grammar.VOCABULARY)


@given(seed=SEEDS)
def test_digit_strings_have_only_digits(seed: int) -> None:
    rng = random.Random(seed)
    for draw_text in (command_grammar.digit_string, command_grammar.stuttering_digit_string):
        text = draw_text(rng)
        assert command_grammar.has_only_digits(text)
        assert len(text.split()) <= 7


@pytest.mark.parametrize(
    ("text", "only_digits", "repeats"),
    [
        ("one one", True, True),
        ("one two one", True, False),
        ("call one one", False, True),
        ("ten", False, False),
    ],
)
def test_sentence_properties(text: str, only_digits: bool, repeats: bool) -> None:
    assert command_grammar.has_only_digits(text) is only_digits
    assert command_grammar.repeats_a_word(text) is repeats


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as the trainings do, without fighting other processes for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plan() -> CorpusPlan:
    return speech_corpus.plan()


def test_plan_is_the_same_every_time(plan: CorpusPlan) -> None:
    assert speech_corpus.plan() == plan


def test_no_test_sentence_is_trained_on(plan: CorpusPlan) -> None:
    tests = [s.text for s in chain_sets(plan.held_out)]
    development = [s.text for s in chain_sets(plan.development)]
    assert len(set(tests + development)) == len(tests) + len(development)
    assert {s.text for s in plan.training}.isdisjoint(tests + development)
    assert {s.text for s in plan.training}.isdisjoint(s.text for s in speech_examples.SENTENCES)


def test_every_test_set_has_commands_and_digits(plan: CorpusPlan) -> None:
    assert list(plan.held_out) == ["default_voice", "seen_voices", "unseen_voices"]
    for sentences in plan.held_out.values():
        digit_strings = sum(command_grammar.has_only_digits(s.text) for s in sentences)
        assert len(sentences) >= 300
        assert digit_strings >= 100


def test_voices_are_split_as_the_sets_are_named(plan: CorpusPlan) -> None:
    trained_accents, trained_variants = heard(plan.training)
    assert plain_voices(plan.held_out["default_voice"])
    seen_accents, seen_variants = heard(plan.held_out["seen_voices"])
    assert seen_accents <= trained_accents
    assert seen_variants <= trained_variants
    _, unseen_variants = heard(plan.held_out["unseen_voices"])
    assert "" not in unseen_variants
    assert unseen_variants.isdisjoint(trained_variants)
    _, development_variants = heard(plan.development["development_voices"])
    assert development_variants.isdisjoint(trained_variants | unseen_variants)
    assert "en-gb-x-gbclan" not in trained_accents


def chain_sets(sets: dict[str, list[espeak.SpokenSentence]]) -> Iterator[espeak.SpokenSentence]:
    return (sentence for sentences in sets.values() for sentence in sentences)


def heard(sentences: list[espeak.SpokenSentence]) -> tuple[set[str], set[str]]:
    accents, _, variants = zip(*(s.voice.partition("+") for s in sentences), strict=True)
    return set(accents), set(variants)


def plain_voices(sentences: list[espeak.SpokenSentence]) -> bool:
    return all(
        s == espeak.SpokenSentence(s.text, s.voice) and "+" not in s.voice for s in sentences
    )


def test_random_variants_are_distinct_and_repeatable() -> None:
    variants = voices.random_variants(seed=3, count=20)
    assert variants == voices.random_variants(seed=3, count=20)
    timbres = {definition.split("\n", maxsplit=2)[2] for definition in variants.values()}
    assert len(timbres) == 20
    assert variants["random000"].startswith("language variant\nname random000\npitch ")
    assert all(definition.count("\nformant ") == 9 for definition in variants.values())


def test_missing_espeak_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(espeak.EspeakMissingError, match=r"^Training needs .* espeak-ng\.$"):
        espeak.executable()


@given(seed=SEEDS, length=st.integers(min_value=100, max_value=3_000))
def test_augmentation_is_bounded_and_repeatable(seed: int, length: int) -> None:
    samples = noise(length, seed)
    before = samples.copy()
    waveform = augmentation.augment(samples, np.random.default_rng(seed))
    again = augmentation.augment(samples, np.random.default_rng(seed))
    assert waveform.dtype == np.float32
    assert np.abs(waveform).max(initial=0) <= 1
    longest_s = augmentation.longest_augmented_s(length / espeak.SAMPLE_RATE_HZ)
    assert len(waveform) <= longest_s * espeak.SAMPLE_RATE_HZ
    np.testing.assert_array_equal(waveform, again)
    np.testing.assert_array_equal(samples, before)


def test_effects_on_hand_computed_waveforms() -> None:
    ramp = np.array([0.0, 0.1, 0.2, 0.3], dtype=np.float32)
    click = np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32)
    np.testing.assert_allclose(augmentation.change_speed(ramp, 2.0), [0.0, 0.2])
    np.testing.assert_allclose(
        augmentation.change_speed(ramp, 0.5)[:6], [0.0, 0.05, 0.1, 0.15, 0.2, 0.25], rtol=1e-6
    )
    np.testing.assert_allclose(augmentation.add_echo(click, 2, 0.25), [1.0, 0.0, 0.25, 0.0])
    np.testing.assert_allclose(augmentation.tilt_spectrum(click, -0.5), [1.0, -0.5, 0.0, 0.0])


@pytest.mark.parametrize("is_dark", [False, True])
def test_noise_has_the_level_asked_for(is_dark: bool) -> None:
    tone = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    rng = np.random.default_rng(0)
    added = augmentation.add_noise(tone, 20.0, is_dark=is_dark, rng=rng) - tone
    ratio_db = 10 * math.log10(float(np.mean(tone**2) / np.mean(added**2)))
    assert ratio_db == pytest.approx(20.0, abs=0.2)


def test_band_limit_keeps_what_is_below() -> None:
    time_s = np.arange(16_000) / 16_000
    low = np.sin(2 * np.pi * 1_000 * time_s).astype(np.float32)
    high = np.sin(2 * np.pi * 6_000 * time_s).astype(np.float32)
    np.testing.assert_allclose(augmentation.limit_band(low + high, 4_000.0), low, atol=1e-6)


@pytest.mark.parametrize(
    ("references", "hypotheses", "percent"),
    [
        (["one two"], ["one two"], 0.0),
        (["one two three four"], ["one two three"], 25.0),
        (["one two three four"], ["one five three four"], 25.0),
        (["one two"], ["one one two"], 50.0),
        (["one"], ["two three"], 200.0),
        (["one two three"], [""], 100.0),
        (["one", "two three four"], ["two", "two three four"], 25.0),
    ],
)
def test_word_error_rate(references: list[str], hypotheses: list[str], percent: float) -> None:
    assert word_error_rate(references, hypotheses) == percent


def test_sentences_are_joined_by_pauses_in_which_words_may_go_on() -> None:
    spoken = [Utterance(np.full(16_000, level, np.int16), "", "") for level in (1000, -1000)]
    silent = pauses.join(spoken, 0.5, None, seed=1)
    assert silent.seams_s == [1.25]
    assert silent.waveform[16_000:24_000].tolist() == [0] * 8_000
    assert len(silent.waveform) == 40_000
    noisy = pauses.join(spoken, 0.5, -40.0, seed=1)
    assert noisy.waveform[16_000:24_000].std() == pytest.approx(10, rel=0.1)
    apart = [Word("one", 0.1, 0.9, 1.0), Word("two", 1.6, 2.4, 1.0)]
    assert pauses.count_glued(apart, silent.seams_s) == 0
    assert pauses.count_glued([Word("onetwo", 0.1, 2.4, 1.0)], silent.seams_s) == 1


def test_learning_rate_rises_holds_and_falls() -> None:
    recipe = Recipe(steps=1_000, peak_learning_rate=1.0, max_gradient_norm=1.0, warmup_steps=100)
    rates = [learning_rate(step, recipe) for step in range(recipe.steps)]
    assert rates[0] == 0.01
    assert rates[49] == 0.5
    assert rates[99:300] == [1.0] * 201
    assert rates[300:] == sorted(rates[300:], reverse=True)
    assert rates[650] == pytest.approx(0.5)
    assert rates[-1] == recipe.floor_share


def test_averaged_weights_follow_and_swap_in_place() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    averaged = AveragedWeights(network, decay=0.999)
    torch.nn.init.constant_(network.weight, 1.1)
    averaged.update()
    with averaged.in_place():
        # The first update forgets ten elevenths of the start: its decay is 1 / 11.
        assert network.weight.item() == pytest.approx(1.0)
    assert network.weight.item() == pytest.approx(1.1)


def test_batches_hold_every_utterance_once_and_keep_the_limit() -> None:
    utterances = [utterance(length) for length in range(4_000, 36_000, 500)]
    limit_s = 10.0
    drawn = speech_training.batches(utterances, limit_s, random.Random(0))
    again = speech_training.batches(utterances, limit_s, random.Random(0))
    seen: list[Utterance] = []
    while len(seen) < len(utterances):
        batch = next(drawn)
        seen += batch
        assert batch == next(again)
        longest_s = max(augmentation.longest_augmented_s(u.duration_s) for u in batch)
        assert len(batch) == 1 or len(batch) * longest_s <= limit_s
    assert set(seen) == set(utterances)
    assert len(seen) == len(utterances)


def test_an_epoch_is_followed_by_another() -> None:
    utterances = [utterance(4_000), utterance(4_000)]
    drawn = speech_training.batches(utterances, 0.1, random.Random(0))
    assert sum(map(len, islice(drawn, 10))) == 10


def test_shortest_batches_come_first() -> None:
    rng = random.Random(0)
    utterances = [utterance(rng.randrange(4_000, 36_000)) for _ in range(60)]
    drawn = speech_training.batches(utterances, 8.0, rng)
    first = speech_training.shortest_first(drawn, count=4)
    assert len(first) == 4
    assert [b[-1].duration_s for b in first] == sorted(b[-1].duration_s for b in first)


def test_first_convolution_starts_as_unit_tones() -> None:
    convolution = wav2vec2.build_network().get_submodule(
        "wav2vec2.feature_extractor.conv_layers.0.conv"
    )
    filters = convolution.get_parameter("weight").detach()[:, 0]
    torch.testing.assert_close(filters.norm(dim=1), torch.ones(96))
    peak_hz = torch.fft.rfft(filters[::4], n=16_000).abs().argmax(1)
    assert peak_hz[-1].item() == pytest.approx(7_600, rel=0.02)
    # A window of 8 ms holds less than a period of the lowest tones.
    assert (peak_hz[4:].diff() > 0).all()


def test_features_are_normalised_by_their_statistics() -> None:
    waveforms = [espeak.to_float(noise(16_000, seed)) for seed in range(3)]
    front_end = emformer.normalised_features(waveforms)
    frames = torch.cat([emformer.features_of(front_end, waveform) for waveform in waveforms])
    assert frames.shape == (3 * 101, 80)
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(80))


def test_stacked_features_end_in_whole_reduced_frames_and_context() -> None:
    stacked, lengths = emformer.stack_features([torch.ones(5, 80), torch.ones(8, 80)])
    assert stacked.shape == (2, 8 + 4, 80)
    assert lengths.tolist() == [8, 8]
    assert stacked[0].sum() == 5 * 80


def test_pieces_spell_a_word_in_parts() -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=emformer.train_sentence_pieces(0))
    for word in command_grammar.VOCABULARY:
        encoded = pieces.encode(word, out_type=str)
        assert pieces.decode(pieces.encode(word)) == word
        assert max(map(len, encoded)) <= emformer.LONGEST_PIECE


def test_both_trainings_write_models_that_load(tmp_path: Path) -> None:
    utterances = [utterance(8_000, seed) for seed in range(4)]
    heard = {"noise": utterances[:1]}
    recipe = Recipe(steps=2, peak_learning_rate=1e-3, max_gradient_norm=1.0)
    for trainee in (
        wav2vec2.Wav2Vec2Trainee(tmp_path / "wav2vec2", heard, seed=0),
        emformer.EmformerTrainee(tmp_path / "emformer", utterances, heard, seed=0),
    ):
        drawn = speech_training.batches(utterances, 10.0, random.Random(0))
        speech_training.fit(trainee, recipe, drawn)
        assert trainee.loss(utterances).isfinite()
    assert_wav2vec2_loads(tmp_path / "wav2vec2")
    assert_emformer_loads(tmp_path / "emformer")


def assert_wav2vec2_loads(model_dir: Path) -> None:
    model = Wav2Vec2ForCTC.from_pretrained(model_dir, dtype=torch.float32)
    processor = Wav2Vec2Processor.from_pretrained(model_dir)
    inputs = processor(espeak.to_float(noise(16_000, 0)), sampling_rate=16_000, return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 48, len(processor.tokenizer))


def assert_emformer_loads(model_dir: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_dir / "spm.model"))
    model = torchaudio.models.emformer_rnnt_model(
        **emformer.network_arguments(pieces.get_piece_size())
    )
    model.load_state_dict(load_file(model_dir / "model.safetensors"))
    assert (model_dir / "config.json").exists()
    assert (model_dir / "global_stats.json").exists()


def utterance(length: int, seed: int = 0) -> Utterance:
    return Utterance(noise(length, seed), "one two", "noise")


def noise(length: int, seed: int) -> espeak.Int16Waveform:
    samples = np.random.default_rng(seed).integers(-8_000, 8_000, length, dtype=np.int16)
    return np.asarray(samples)
