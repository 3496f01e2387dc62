"""Who says which word: stretches of words, groups of voices, and their names."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repository import ROOT
from speechtext.errors import ImpossibleRequestError, RequestError
from speechtext.speech import diarization
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.costs import SpeechCost
from speechtext.speech.diarization import (
    Diarizer,
    LiveSpeakers,
    WordRun,
    cut_stretches,
    cut_voice,
    find_centres,
    group_voices,
)
from speechtext.speech.heads.speaker_embedding import SpeakerEmbedding, SpeakerEmbeddingSettings
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


class Pitches(SpeakerEmbedding):
    """Voices that are told by hand: of a waveform's middle sample, as an angle in degrees.

    Where that is zero, there is no voice.
    """

    def __init__(self) -> None:
        self.settings = SpeakerEmbeddingSettings(mode="speaker_embedding")
        self.cost = SpeechCost(1.0, 2)

    def compute(
        self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]
    ) -> list[torch.Tensor | RequestError]:
        """Return a vector of length 1 in a plane for each waveform."""
        assert len(waveforms) == len(parameters)
        angles = [float(each[len(each) // 2]) if len(each) else 0.0 for each in waveforms]
        return [self._speak(each) for each in angles]

    def _speak(self, degrees: float) -> torch.Tensor | RequestError:
        if degrees == 0:
            return ImpossibleRequestError("TooShort", "Expected a voice.")
        return voice_at(degrees)


def voice_at(degrees: float) -> torch.Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


# Of two voices with less than 60 degrees between them the cosine is more than a half.
def told_by_hand(threshold: float = 0.5) -> Diarizer:
    return Diarizer(Pitches(), threshold)


def utter(*degrees: float, length_s: float = 1.0) -> tuple[list[Word], torch.Tensor]:
    """Return a word in every two seconds, and a waveform with the angle of each throughout them."""
    words = words_at(*((2 * n + 0.5, 2 * n + 0.5 + length_s) for n in range(len(degrees))))
    waveform = torch.tensor(degrees, dtype=torch.float32).repeat_interleave(2 * SAMPLE_RATE_HZ)
    return words, waveform


def names_in(
    degrees: Sequence[float],
    num_speakers: int | None = None,
    known: Mapping[str, torch.Tensor] | None = None,
    threshold: float = 0.5,
) -> list[str | None]:
    words, waveform = utter(*degrees)
    transcript = Transcript("said", 2.0 * len(degrees), words)
    found = told_by_hand(threshold).name_words(transcript, waveform, num_speakers, known)
    assert (found.text, found.duration_s) == ("said", 2.0 * len(degrees))
    assert [word._replace(speaker=None) for word in found.words] == words
    return [word.speaker for word in found.words]


def test_speakers_are_counted_as_they_are_heard() -> None:
    assert names_in([100, 10, 110, 5]) == ["Speaker 1", "Speaker 2", "Speaker 1", "Speaker 2"]
    assert names_in([10, 50, 200]) == ["Speaker 1", "Speaker 1", "Speaker 2"]
    assert names_in([10, 50, 200], num_speakers=1) == ["Speaker 1"] * 3
    assert names_in([10, 50, 200], num_speakers=3) == ["Speaker 1", "Speaker 2", "Speaker 3"]
    assert names_in([10, 50, 200], threshold=0.9) == ["Speaker 1", "Speaker 2", "Speaker 3"]


def test_word_without_a_voice_has_the_speaker_before_it() -> None:
    one, two = "Speaker 1", "Speaker 2"
    assert names_in([10, 0, 200, 0, 0, 10]) == [one, one, two, two, two, one]
    # At the beginning, that of the first who is heard.
    assert names_in([0, 0, 200, 10]) == [one, one, one, two]
    assert names_in([0, 0]) == [None, None]


def test_people_are_known_by_the_likest_of_their_voices() -> None:
    ann, ben, eve = voice_at(20), voice_at(190), voice_at(300)
    assert names_in([10, 200, 100], known={"Ann": ann}) == ["Ann", "Speaker 1", "Speaker 2"]
    assert names_in([10, 200], known={"Ben": ben, "Ann": ann}) == ["Ann", "Ben"]
    # More people than speakers, and one who is like nobody.
    assert names_in([200], known={"Eve": eve, "Ann": ann, "Ben": ben}) == ["Ben"]
    assert names_in([10, 100], known={"Ben": ben}) == ["Speaker 1", "Speaker 2"]
    assert names_in([10, 100], known={}) == ["Speaker 1", "Speaker 2"]
    # Both speakers are like Ann, who is the likest of the second alone.
    assert names_in([50, 10], 2, {"Ann": voice_at(12)}) == ["Speaker 1", "Ann"]


def test_who_is_clearly_known_keeps_the_name_whoever_else_is_asked_for() -> None:
    """The first is like Ann, the second a little, and Bob like neither or the first a little."""
    for bob in (85, 65):
        known = {"Ann": voice_at(25), "Bob": voice_at(bob)}
        assert names_in([10, -30], 2, known) == ["Ann", "Speaker 1"]
    # Where each may be somebody, both are.
    both = {"Ann": voice_at(20), "Bob": voice_at(-20)}
    assert names_in([10, -10], 2, both) == ["Ann", "Bob"]


def test_nobody_else_is_called_as_who_is_known() -> None:
    """As of who carries the names on from one part of a recording to the next."""
    ann, ben = voice_at(20), voice_at(190)
    assert names_in([10, 200], known={"Speaker 1": ben}) == ["Speaker 2", "Speaker 1"]
    assert names_in([10, 200, 100], known={"Speaker 2": ben}) == [
        "Speaker 1",
        "Speaker 2",
        "Speaker 3",
    ]
    # Nor where those who are known are not heard.
    known = {"Speaker 1": ann, "Speaker 3": ben}
    assert names_in([100, 280], known=known) == ["Speaker 2", "Speaker 4"]


@pytest.mark.parametrize(("threshold", "name"), [(1.0, "Ann"), (1.001, "Speaker 1")])
def test_threshold_is_enough_to_be_known(threshold: float, name: str) -> None:
    """A cosine of exactly one: of a voice along the first axis."""
    words, waveform = utter(360)
    transcript = Transcript("", 2.0, words)
    found = told_by_hand(threshold).name_words(
        transcript, waveform, None, {"Ann": torch.tensor([1.0, 0.0])}
    )
    assert [word.speaker for word in found.words] == [name]


def test_diariser_costs_what_its_voices_cost() -> None:
    assert told_by_hand().cost == SpeechCost(1.0, 2)
    (heard, none) = told_by_hand().listen([torch.full((9,), 90.0), torch.zeros(9)])
    torch.testing.assert_close(heard, torch.tensor([0.0, 1.0]))
    assert isinstance(none, ImpossibleRequestError)


def test_diariser_is_loaded_as_it_is_asked_for() -> None:
    voices = Diarizer.load(VOICES, 0.25, dtype="bfloat16")
    assert voices.threshold == 0.25
    assert voices._voices.network.dtype == torch.bfloat16
    assert voices._voices.settings == SpeakerEmbeddingSettings(
        mode="speaker_embedding", dtype="bfloat16", threshold=0.25
    )
    other = Diarizer.load(VOICES, 0.3)
    assert other._voices.network.dtype == torch.float32
    assert other._voices.network.device.type == "cpu"


def live_names(speakers: LiveSpeakers, *degrees: float, length_s: float = 1.0) -> list[str | None]:
    words, waveform = utter(*degrees, length_s=length_s)
    return [word.speaker for word in speakers.name_words(words, waveform, 0.0)]


def test_live_speaker_is_the_likest_so_far() -> None:
    speakers = LiveSpeakers(told_by_hand())
    assert live_names(speakers, 10, 100) == ["Speaker 1", "Speaker 2"]
    # Between both, and nearer to the first.
    assert live_names(speakers, 45, 200, 70) == ["Speaker 1", "Speaker 3", "Speaker 2"]


def test_live_voice_is_the_mean_of_all_that_was_said() -> None:
    speakers = LiveSpeakers(told_by_hand())
    assert live_names(speakers, 10, 60, 90) == ["Speaker 1"] * 3
    # The mean of 10, 60 and 90 is 55; of 10 alone 110 would be too far away.
    assert live_names(speakers, 110) == ["Speaker 1"]
    again = LiveSpeakers(told_by_hand())
    assert live_names(again, 10, 110) == ["Speaker 1", "Speaker 2"]


@pytest.mark.parametrize("length_s", [0.1, 4.0])
def test_live_stretch_that_is_not_sure_founds_no_speaker_and_changes_none(length_s: float) -> None:
    """Too short, or so long a word that there must be a silence in it."""
    speakers = LiveSpeakers(told_by_hand())
    # Somebody has to be the first.
    assert live_names(speakers, 10, length_s=0.1) == ["Speaker 1"]
    words, _ = utter(200, length_s=length_s)
    waveform = torch.full((6 * SAMPLE_RATE_HZ,), 200.0)
    for _ in range(3):
        (told,) = speakers.name_words(words, waveform, 0.0)
        assert told.speaker == "Speaker 1"
    # The first one's voice is what it was.
    assert live_names(speakers, 65, 75) == ["Speaker 1", "Speaker 1"]
    assert live_names(speakers, 200) == ["Speaker 2"]


@pytest.mark.parametrize(("threshold", "count"), [(1.0, 1), (1.001, 2)])
def test_threshold_is_enough_to_be_the_same_live_speaker(threshold: float, count: int) -> None:
    speakers = LiveSpeakers(told_by_hand(threshold))
    words, waveform = utter(360)
    # Of a voice along the first axis, whose cosine with itself is exactly one.
    speakers._sums.append(torch.tensor([1.0, 0.0]))
    if threshold > 1:
        assert speakers.name_words(words, waveform, 0.0)[0].speaker == "Speaker 2"
    else:
        assert speakers.name_words(words, waveform, 0.0)[0].speaker == "Speaker 1"
    assert len(speakers._sums) == count


def test_live_speech_has_no_more_than_twenty_speakers() -> None:
    speakers = LiveSpeakers(told_by_hand(0.9999))
    angles = [3.0 + 7 * n for n in range(25)]
    named = live_names(speakers, *angles)
    assert named[:20] == [f"Speaker {n}" for n in range(1, 21)]
    # The others are the likest of them.
    assert named[20:] == ["Speaker 20"] * 5


def test_live_words_are_cut_out_of_what_is_heard() -> None:
    """What is heard begins at 100 s; the words from before it have the next one's speaker."""
    words, waveform = utter(10, 200, 10)
    moved = [
        word._replace(start_s=word.start_s + 100, end_s=word.end_s + 100)
        for word in [*words_at((-9.0, -8.5), (-8.4, -8.0), (-7.0, -6.0)), *words]
    ]
    told = LiveSpeakers(told_by_hand()).name_words(moved, waveform, 100.0)
    one, two = "Speaker 1", "Speaker 2"
    assert [word.speaker for word in told] == [one, one, one, one, two, one]
    assert [word._replace(speaker=None) for word in told] == moved


def test_live_words_without_a_voice_are_as_they_were() -> None:
    speakers = LiveSpeakers(told_by_hand())
    words, waveform = utter(0, 0)
    assert speakers.name_words(words, waveform, 0.0) == words
    assert live_names(speakers, 0, 70, 0, 250) == ["Speaker 1"] * 3 + ["Speaker 2"]


@pytest.mark.parametrize(
    ("words", "places"),
    [
        # Of a stretch that is long enough: pauses of exactly 0.15 s, and of a little more.
        ([(-0.6, 0.0), (0.15, 0.76)], [(0, 2)]),
        ([(-0.6, 0.0), (0.16, 0.77)], [(0, 1), (1, 2)]),
        # Of a shorter one: of exactly half a second, and of a little more.
        ([(-0.5, 0.0), (0.5, 0.75)], [(0, 2)]),
        ([(-0.5, 0.0), (0.51, 1.2)], [(0, 1), (1, 2)]),
        # A short one behind such a pause, behind a long enough one.
        ([(-0.7, 0.0), (0.5, 0.6)], [(0, 2)]),
        ([(-0.7, 0.0), (0.51, 0.6)], [(0, 1), (1, 2)]),
        # What is just long enough is not joined with those before it.
        ([(-0.6, 0.0), (0.2, 0.8)], [(0, 1), (1, 2)]),
        ([(-0.6, 0.0), (0.2, 0.79)], [(0, 2)]),
        # Two short ones in a row.
        ([(-0.6, 0.0), (0.2, 0.3), (0.6, 0.7)], [(0, 3)]),
        # Behind long pauses each is by itself.
        ([(-0.3, 0.0), (0.6, 0.8), (1.5, 1.6)], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_pauses_that_end_a_stretch(
    words: list[tuple[float, float]], places: list[tuple[int, int]]
) -> None:
    assert places_of(words_at(*words)) == places


@pytest.mark.parametrize(
    ("words", "places"),
    [
        # 1.4 s are one stretch, and a little more are two.
        ([(0.0, 0.7), (0.7, 1.4)], [(0, 2)]),
        ([(0.0, 0.7), (0.7, 1.41)], [(0, 1), (1, 2)]),
        # Three parts of 1 s: words are in the part of their middle, none is in the second.
        ([(0.0, 1.0), (1.0, 3.0)], [(0, 1), (1, 2)]),
        ([(0.0, 0.5), (0.5, 0.9), (0.9, 1.2), (1.2, 1.9), (1.9, 3.0)], [(0, 2), (2, 4), (4, 5)]),
        # No time at all.
        ([(1.0, 1.0)], [(0, 1)]),
    ],
)
def test_parts_of_a_long_stretch(
    words: list[tuple[float, float]], places: list[tuple[int, int]]
) -> None:
    stretches = cut_stretches(words_at(*words))
    assert [(each.first, each.stop) for each in stretches] == places
    for first, stop, start_s, end_s in stretches:
        assert start_s == pytest.approx(max(0, words[first][0] - 0.2))
        assert end_s == pytest.approx(words[stop - 1][1] + 0.2)


@pytest.mark.parametrize(
    ("start_s", "end_s", "first", "stop"),
    [
        (1.0, 2.0, 16_000, 32_000),
        # Exactly half a second, and less with silence on both sides.
        (1.0, 1.5, 16_000, 24_000),
        (1.0, 1.25, 14_000, 22_000),
        # At the beginning and the end the other side has more.
        (0.0, 0.25, 0, 8_000),
        (3.5, 4.5, 56_000, 64_000),
        (3.75, 4.0, 56_000, 64_000),
        (0.0, 9.0, 0, 64_000),
    ],
)
def test_voice_is_cut_out_of_a_recording(
    start_s: float, end_s: float, first: int, stop: int
) -> None:
    heard = cut_voice(torch.arange(4 * SAMPLE_RATE_HZ), WordRun(0, 1, start_s, end_s))
    assert (int(heard[0]), int(heard[-1]) + 1) == (first, stop)


def test_voice_of_a_recording_that_is_too_short_is_all_of_it() -> None:
    heard = cut_voice(torch.arange(3_000), WordRun(0, 1, 0.0, 0.1))
    assert len(heard) == 3_000


@pytest.mark.parametrize(
    ("duration_s", "groups"),
    [(0.59, [0, 0, 1]), (0.6, [0, 1, 2]), (2.2, [0, 1, 2]), (2.21, [0, 0, 1])],
)
def test_stretch_that_founds_a_group(duration_s: float, groups: list[int]) -> None:
    voices = torch.stack([voice_at(degrees) for degrees in (70, 10, 200)])
    # The first is between the others, and nearer to the second.
    assert group_voices(voices, [duration_s, 1.0, 1.0], 0.9) == groups


def test_all_found_groups_where_too_few_are_sure() -> None:
    voices = torch.stack([voice_at(degrees) for degrees in (10, 120, 240)])
    assert group_voices(voices, [0.1, 0.1, 0.1], 0.5) == [0, 1, 2]
    assert group_voices(voices, [1.0, 0.1, 0.1], 0.5) == [0, 0, 0]
    assert group_voices(voices, [1.0, 0.1, 0.1], 0.5, 2) in ([0, 0, 1], [0, 1, 1], [0, 1, 0])
    assert group_voices(voices, [1.0, 1.0, 0.1], 0.5, 2)[:2] == [0, 1]
    assert group_voices(voices[:1], [0.1], 0.5, 4) == [0]


def test_recording_has_no_more_than_twenty_speakers() -> None:
    drawn = torch.randn(25, 60, generator=torch.manual_seed(0))
    voices = torch.nn.functional.normalize(drawn, dim=1)
    groups = group_voices(voices, [1.0] * 25, 0.5)
    assert sorted(set(groups)) == list(range(20))
    assert len(set(group_voices(voices, [1.0] * 25, 0.5, 3))) == 3
    assert len(set(group_voices(voices[:20], [1.0] * 20, 0.5))) == 20
