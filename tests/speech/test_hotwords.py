"""The scores of hotwords, and the searches with them, against brute force."""

import itertools
import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.errors import ImpossibleRequestError
from speechtext.speech.ctc.hotword_search import search_hotwords
from speechtext.speech.ctc.lexicon import AnyWords, Lexicon, LexiconWords, NoLanguageModel
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.hotwords import Biasing, HotwordParameters, read_hotwords

BOUNDARY = "|"
WORDS = st.text("ab", min_size=1, max_size=3)
PHRASES = st.lists(WORDS, min_size=1, max_size=3)


def covered(words: Sequence[str], phrases: Sequence[Sequence[str]]) -> int:
    """Count the letters of the words that are part of a phrase, each once."""
    parts = set()
    for phrase in phrases:
        for first in range(len(words) - len(phrase) + 1):
            if list(words[first : first + len(phrase)]) == list(phrase):
                parts |= set(range(first, first + len(phrase)))
    return sum(len(words[place]) for place in parts)


@settings(max_examples=500, deadline=None)
@given(st.lists(PHRASES, max_size=4), st.lists(WORDS, max_size=8), st.integers(0, 3))
def test_scores_are_those_of_brute_force(
    phrases: list[list[str]], words: list[str], more_boundaries: int
) -> None:
    """On the way, too: what is taken back where a hotword breaks off counts no more."""
    scores = HotwordScores(phrases, BOUNDARY, boost=0.5)
    text = BOUNDARY * more_boundaries + (BOUNDARY * (1 + more_boundaries)).join(words)
    assert scores.score(text) == pytest.approx(0.5 * covered(words, phrases))
    state, total = scores.start, 0.0
    for place, symbol in enumerate(text):
        state, gain = scores.step(state, symbol)
        total += gain
        ended = [each for each in text[: place + 1].split(BOUNDARY)[:-1] if each]
        assert total - scores.pending(state) == pytest.approx(0.5 * covered(ended, phrases))


def test_a_match_counts_from_its_first_letter_and_is_taken_back() -> None:
    scores = HotwordScores([["ab"]], BOUNDARY, boost=2.0)
    after_one = scores.step(scores.start, "a")
    assert after_one.gain == 2.0
    assert scores.step(after_one.state, "b").gain == 2.0
    assert scores.step(after_one.state, "a").gain == -2.0
    assert scores.finish(after_one.state) == -2.0


def collapse(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def best_by_brute_force(
    emission: torch.Tensor, scores: HotwordScores, words: set[str] | None
) -> tuple[float, dict[tuple[int, ...], float]]:
    """Return the best total, and that of each label sequence, over all paths of an emission."""
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(emission.shape[1]), repeat=len(emission)):
        labels = collapse(path)
        text = "".join("_|ab"[label] for label in labels)
        if words is not None and not (
            set(text.split("|")) <= words | {""} and (not text or text.endswith("|"))
        ):
            continue
        total = sum(float(emission[frame, label]) for frame, label in enumerate(path))
        total += scores.score(labels)
        totals[labels] = max(totals.get(labels, -math.inf), total)
    return max(totals.values()), totals


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.lists(PHRASES, min_size=1, max_size=3),
    st.none() | st.sets(WORDS, min_size=1, max_size=3),
)
def test_ctc_search_finds_the_best_of_all_paths(
    seed: int, frames: int, phrases: list[list[str]], lexicon: set[str] | None
) -> None:
    """With a lexicon and without; the hotwords are always among the words."""
    emission = torch.randn(frames, 4, generator=torch.manual_seed(seed)).double().log_softmax(-1)
    labels = [[["_|ab".index(letter) for letter in word] for word in phrase] for phrase in phrases]
    scores = HotwordScores(labels, boundary=1, boost=0.7)
    words: AnyWords | LexiconWords = AnyWords()
    if lexicon is not None:
        tree = Lexicon()
        for word in sorted(lexicon):
            tree.add(word, [*("_|ab".index(letter) for letter in word), 1], 0.0)
        words = LexiconWords(tree, NoLanguageModel(), "_|ab", 1, 1.0, 0.0).extended(scores.words)
        lexicon = lexicon | {word for phrase in phrases for word in phrase}
    found = search_hotwords(emission, scores, words, beam_width=500, blank=0, delimiter=1)
    best, totals = best_by_brute_force(emission, scores, lexicon)
    assert totals[tuple(label for label, _ in found)] == pytest.approx(best)
    starts = [frame for _, frame in found]
    assert starts == sorted(set(starts))


def test_case_is_that_of_the_vocabulary() -> None:
    def spell(word: str) -> str | None:
        return word if set(word) <= set("ABC") else None

    biasing = Biasing(spell, BOUNDARY, None, 1.0)
    chosen = biasing.choose(HotwordParameters(["aBc  cab"]))
    assert chosen is not None
    assert chosen.score("ABC|CAB") == 6.0
    with pytest.raises(ImpossibleRequestError, match=r"hotwords\.1 has no characters") as error:
        biasing.choose(HotwordParameters(["cab", "secret"]))
    assert "secret" not in error.value.message
    with pytest.raises(ValueError, match=r"handler\.hotwords: .*hotwords\.0"):
        Biasing(spell, BOUNDARY, ["xyz"], 1.0)


def test_settings_stand_in_for_what_a_request_leaves_open() -> None:
    biasing = Biasing(lambda word: word, BOUNDARY, ["ab"], 2.0)
    by_default, boosted, other = (
        biasing.choose(each)
        for each in (
            HotwordParameters(),
            HotwordParameters(hotword_boost=0.5),
            HotwordParameters(["b"]),
        )
    )
    assert by_default is not None
    assert boosted is not None
    assert other is not None
    assert by_default.score("ab|b") == 4.0
    assert boosted.score("ab|b") == 1.0
    assert other.score("ab|b") == 2.0
    assert biasing.choose(HotwordParameters([])) is None


@pytest.mark.parametrize(
    ("given_hotwords", "boost", "said"),
    [
        ("kitchen", None, "hotwords as JSON"),
        ("[" * 100_000, None, "hotwords as JSON"),
        (" " * 200_000 + "[]", None, "at most 131072 characters, got 200002"),
        ('{"secret": 1}', None, "hotwords: input should be a valid list, got a dict"),
        ([1], None, r"hotwords\.0: input should be a valid string, got 1"),
        (["a", ""], None, r"hotwords\.1: string should have at least 1 character, got a str"),
        (["secret" * 17], None, r"hotwords\.0: string should have at most 100 characters"),
        (["a"] * 101, None, "hotwords: list should have at most 100 items"),
        (None, "much", "hotword_boost as JSON, such as 1.5"),
        (None, "NaN", "hotword_boost: input should be a finite number"),
        (None, 10.5, "hotword_boost: input should be less than or equal to 10, got 10.5"),
        (None, -1, "hotword_boost: input should be greater than or equal to 0, got -1"),
        (None, True, "hotword_boost: input should be a valid number"),
        (None, "[1]", "hotword_boost: input should be a valid number, got a list"),
    ],
)
def test_what_cannot_be_is_named_and_not_repeated(
    given_hotwords: object, boost: object, said: str
) -> None:
    with pytest.raises(ImpossibleRequestError, match=said) as error:
        read_hotwords(given_hotwords, boost)
    assert error.value.kind == "InvalidParameter"
    assert "secret" not in error.value.message


@pytest.mark.parametrize("given_hotwords", ['["new york", "a"]', ["new york", "a"]])
@pytest.mark.parametrize("boost", ["2", 2, 2.0])
def test_text_is_read_as_json(given_hotwords: object, boost: object) -> None:
    assert read_hotwords(given_hotwords, boost) == HotwordParameters(["new york", "a"], 2.0)


def test_the_longest_list_is_taken() -> None:
    generator = random.Random(0)
    phrases = [" ".join(generator.choices("ab", k=50)) + "a" for _ in range(100)]
    asked = read_hotwords(phrases, 10)
    scores = Biasing(lambda word: word, BOUNDARY, None, 1.0).choose(asked)
    assert scores is not None
    assert scores.score(phrases[7].replace(" ", BOUNDARY)) == 510.0


def test_hotwords_of_the_settings_need_a_search() -> None:
    phrases = ["Acme"]
    with pytest.raises(ValueError, match=", expected decoder: beam for hotwords "):
        Wav2Vec2Settings(hotwords=phrases)
    assert Wav2Vec2Settings(hotwords=phrases, decoder="beam").hotwords == phrases
    assert Wav2Vec2Settings().hotwords is None
