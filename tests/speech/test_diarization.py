"""Who says which word: stretches of words, groups of voices, and their names."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repository import ROOT
from speechtext.speech import diarization
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.diarization import (
    Diarizer,
    LiveSpeakers,
    cut_stretches,
    cut_voice,
    find_centres,
    group_voices,
)
from speechtext.speech.transcripts import Transcript, Word
from support.recordings import read_turns

VOICES = ROOT / "demo_models" / "wav2vec2_voices"
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def words_at(*times_s: tuple[float, float]) -> list[Word]:
    return [Word(f"w{place}", *each, 1.0) for place, each in enumerate(times_s)]


def spoken(*turns: int) -> torch.Tensor:
    """Return turns of the example one after the other, half a second between them."""
    pause = torch.zeros(SAMPLE_RATE_HZ // 2)
    parts: list[torch.Tensor] = []
    for turn in turns:
        parts += [torch.from_numpy(read_turns()[turn][1] / np.float32(32_768)), pause]
    return torch.cat(parts)


def places_of(words: Sequence[Word]) -> list[tuple[int, int]]:
    return [(each.first, each.stop) for each in cut_stretches(words)]


def test_stretches_end_at_pauses_unless_they_are_short() -> None:
    after_long = words_at((0.2, 0.5), (0.55, 0.9), (1.1, 1.5), (1.52, 2.0))
    assert places_of(after_long) == [(0, 2), (2, 4)]
    first, _ = cut_stretches(after_long)
    assert [first.start_s, first.end_s] == pytest.approx([0.0, 1.1])
    assert places_of(words_at((0.2, 0.4), (0.6, 1.2))) == [(0, 2)]
    assert places_of(words_at((0.2, 0.4), (1.0, 1.6))) == [(0, 1), (1, 2)]
    assert places_of(words_at((0.2, 0.9), (1.2, 1.4))) == [(0, 2)]
    assert places_of(words_at((0.2, 0.9), (1.5, 1.6))) == [(0, 1), (1, 2)]
    assert cut_stretches(words_at((0.5, 0.9)))[0].start_s == pytest.approx(0.3)
    assert cut_stretches([]) == []


def test_long_stretch_is_cut_into_equal_parts() -> None:
    words = words_at(*((0.3 * n, 0.3 * n + 0.29) for n in range(10)))
    assert places_of(words) == [(0, 3), (3, 7), (7, 10)]
    assert places_of(words_at((0.0, 5.0))) == [(0, 1)]


@given(SEEDS)
def test_stretches_of_any_words_are_all_words_in_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.uniform(0, 0.8, size=2 * rng.integers(1, 40)))
    words = words_at(*zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=True))
    stretches = cut_stretches(words)
    places = [place for each in stretches for place in range(each.first, each.stop)]
    assert places == list(range(len(words)))
    for each in stretches:
        own = words[each.first : each.stop]
        pauses = [b.start_s - a.end_s for a, b in itertools.pairwise(own)]
        assert all(pause_s <= diarization.LONG_PAUSE_S for pause_s in pauses)
        # A word belongs to the part that its middle is in.
        most_s = diarization.LONGEST_STRETCH_S + 0.8
        assert own[-1].end_s - own[0].start_s <= most_s


def test_short_stretch_is_heard_with_what_is_around_it() -> None:
    waveform = torch.arange(4 * SAMPLE_RATE_HZ)
    (short,) = cut_stretches(words_at((2.0, 2.05)))
    heard = cut_voice(waveform, short)
    assert len(heard) == pytest.approx(diarization.SHORTEST_VOICE_S * SAMPLE_RATE_HZ, abs=1)
    assert int(heard[0] + heard[-1]) / 2 == pytest.approx(2.025 * SAMPLE_RATE_HZ, abs=1)
    (first,) = cut_stretches(words_at((0.0, 0.01)))
    assert int(cut_voice(waveform, first)[0]) == 0


def merge_by_hand(voices: np.ndarray, threshold: float, number: int | None) -> set[frozenset[int]]:
    """Merge the two groups whose voices are most alike on average, for as long as they may be."""
    groups = [frozenset([place]) for place in range(len(voices))]
    cosines = voices @ voices.T
    while len(groups) > (number or 1):
        pairs = list(itertools.combinations(groups, 2))
        alike = [np.mean([cosines[i, j] for i in a for j in b]) for a, b in pairs]
        best = int(np.argmax(alike))
        if number is None and alike[best] < threshold:
            break
        one, other = pairs[best]
        groups = [each for each in groups if each not in (one, other)] + [one | other]
    return set(groups)


@settings(deadline=None, max_examples=200)
@given(
    SEEDS,
    st.integers(min_value=1, max_value=14),
    st.floats(min_value=0.2, max_value=0.8),
    st.one_of(st.none(), st.integers(min_value=1, max_value=4)),
)
def test_groups_are_those_of_average_linkage(
    seed: int, count: int, threshold: float, number: int | None
) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 16))
    drawn = centres[rng.integers(0, 4, count)] + 0.4 * rng.normal(size=(count, 16))
    voices = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    expected = merge_by_hand(voices, threshold, min(number, count) if number else None)
    tensor = torch.tensor(voices, dtype=torch.float32)
    groups = diarization._cluster(tensor, threshold, number)
    found = {
        frozenset(place for place, each in enumerate(groups) if each == group)
        for group in set(groups)
    }
    assert found == expected


def test_short_stretches_go_to_the_nearest_speaker_and_found_none() -> None:
    one, other, between = torch.eye(3)
    mixed = torch.nn.functional.normalize(0.8 * one + 0.6 * between, dim=0)
    voices = torch.stack([mixed, one, other, one])
    long, short = 1.0, 0.3
    assert group_voices(voices, [short, long, long, long], 0.9) == [0, 0, 1, 0]
    assert group_voices(voices, [long, long, long, long], 0.9) == [0, 1, 2, 1]
    assert group_voices(voices, [short] * 4, 0.9) == [0, 1, 2, 1]
    assert group_voices(voices, [long] * 4, 0.9, 1) == [0, 0, 0, 0]


def test_centres_are_the_mean_voices() -> None:
    voices = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    centres = find_centres(voices, [0, 1, 0, 1, 1])
    expected = torch.stack([voices[[0, 2]].mean(0), voices[[1, 3, 4]].mean(0)])
    torch.testing.assert_close(centres, torch.nn.functional.normalize(expected, dim=1))


@pytest.fixture(scope="module")
def diarizer() -> Diarizer:
    return Diarizer.load(VOICES, 0.3)


WOMAN, MAN = 0, 1


def transcript_of(lengths_s: Sequence[float]) -> Transcript:
    """Return a word every 0.3 s of recordings that follow each other after half a second."""
    words, start_s = [], 0.0
    for length_s in lengths_s:
        count = int((length_s - 0.4) / 0.3)
        words += [(start_s + 0.1 + 0.3 * n, start_s + 0.35 + 0.3 * n) for n in range(count)]
        start_s += length_s + 0.5
    return Transcript("", start_s, words_at(*words))


def length_s(turn: int) -> float:
    return len(spoken(turn)) / SAMPLE_RATE_HZ - 0.5


def test_two_voices_are_told_apart_and_known_again(diarizer: Diarizer) -> None:
    names = [WOMAN, MAN, WOMAN, MAN]
    transcript = transcript_of([length_s(name) for name in names])
    found = diarizer.name_words(transcript, spoken(*names), num_speakers=2)
    turns = [key for key, _ in itertools.groupby(word.speaker for word in found.words)]
    assert turns == ["Speaker 1", "Speaker 2", "Speaker 1", "Speaker 2"]
    assert [word._replace(speaker=None) for word in found.words] == list(transcript.words)


def test_known_voice_has_its_name_and_others_are_counted(diarizer: Diarizer) -> None:
    (known,) = diarizer.listen([spoken(MAN)])
    assert isinstance(known, torch.Tensor)
    names = [WOMAN, MAN]
    transcript = transcript_of([length_s(name) for name in names])
    found = diarizer.name_words(transcript, spoken(*names), 2, {"Ann": known})
    turns = [key for key, _ in itertools.groupby(word.speaker for word in found.words)]
    assert turns == ["Speaker 1", "Ann"]


def test_live_voice_keeps_its_name_and_a_new_one_gets_the_next(diarizer: Diarizer) -> None:
    speakers = LiveSpeakers(diarizer)
    start_s, named = 0.0, []
    for name in (WOMAN, MAN, WOMAN, MAN):
        words = transcript_of([length_s(name)]).words
        moved = [
            word._replace(start_s=word.start_s + start_s, end_s=word.end_s + start_s)
            for word in words
        ]
        told = speakers.name_words(moved, spoken(name), start_s)
        assert [word._replace(speaker=None) for word in told] == moved
        named.append({word.speaker for word in told})
        start_s += length_s(name) + 0.5
    assert named == [{"Speaker 1"}, {"Speaker 2"}, {"Speaker 1"}, {"Speaker 2"}]


def test_words_from_before_what_is_kept_have_the_speaker_of_those_that_follow(
    diarizer: Diarizer,
) -> None:
    words = [*words_at((0.1, 0.5), (0.6, 0.9)), *transcript_of([length_s(WOMAN)]).words]
    late = [word._replace(start_s=word.start_s + 5, end_s=word.end_s + 5) for word in words[2:]]
    told = LiveSpeakers(diarizer).name_words([*words[:2], *late], spoken(WOMAN), 5.0)
    assert [word.speaker for word in told] == ["Speaker 1"] * len(words)
    nothing = LiveSpeakers(diarizer).name_words(words[:2], torch.zeros(0), 5.0)
    assert nothing == words[:2]


def test_nobody_is_named_where_nothing_is_said(diarizer: Diarizer) -> None:
    silent = Transcript("", 1.0, [])
    assert diarizer.name_words(silent, torch.zeros(SAMPLE_RATE_HZ)) == silent


def test_folder_without_a_model_of_voices_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type"):
        Diarizer.load(tmp_path, 0.5)
