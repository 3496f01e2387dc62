"""The n-gram model: a distribution in every context, in a file that is read back."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_models.word_model import Ngram, estimate, format_arpa
from speechtext.speech.ctc.beam import read_arpa_words, spell

SENTENCES = st.lists(st.lists(st.sampled_from("ABCD"), max_size=6), min_size=1, max_size=20)


def log_probability(
    word: str, context: Ngram, probabilities: dict[Ngram, float], weights: dict[Ngram, float]
) -> float:
    """Back off as a reader of ARPA files does."""
    if (*context, word) in probabilities:
        return probabilities[(*context, word)]
    if not context:
        return probabilities[("<unk>",)]
    return weights.get(context, 0.0) + log_probability(word, context[1:], probabilities, weights)


@settings(max_examples=100, deadline=None)
@given(SENTENCES)
def test_every_context_has_a_distribution(sentences: list[list[str]]) -> None:
    probabilities, weights = estimate(sentences)
    words = {ngram[0] for ngram in probabilities if len(ngram) == 1} - {"<unk>"}
    for context in weights:
        total = math.fsum(
            10 ** log_probability(word, context, probabilities, weights) for word in words
        )
        assert 0.3 < total <= 1 + 1e-9


@settings(deadline=None)
@given(SENTENCES)
def test_words_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]]
) -> None:
    words = sorted({word for sentence in sentences for word in sentence})
    file = tmp_path_factory.getbasetemp() / "words.arpa"
    file.write_text(format_arpa(*estimate(sentences)))
    assert read_arpa_words(file) == words


def test_only_words_that_labels_can_spell_are_in_the_lexicon() -> None:
    assert spell(["AB", "AÉ"], {"A": 1, "B": 2, "|": 0}, "|") == ["AB A B |\n"]
