"""What an explanation tells of its targets: words, where they are, and what they add."""

from typing import Any

import pytest

from speechtext.text.explanation.targets import (
    Explained,
    Target,
    WordSpan,
    describe_spans,
    sum_spans,
    token_spans,
    word_spans,
)
from speechtext.text.tokens import Tokens, Window

# The pair "unhappy cats" and "no cats", as a tokenizer of pieces cuts it.
TEXTS = ["unhappy cats", "no cats"]
NAMES = ["[CLS]", "un", "##happy", "cats", "[SEP]", "no", "cat", "##s", "[SEP]"]
PAIR = Tokens(
    ids=list(range(9)),
    type_ids=[0, 0, 0, 0, 0, 1, 1, 1, 1],
    sequences=[None, 0, 0, 0, None, 1, 1, 1, None],
    words=[None, 0, 0, 1, None, 0, 1, 1, None],
    offsets=[(0, 0), (0, 2), (2, 7), (8, 12), (0, 0), (0, 2), (3, 6), (6, 7), (0, 0)],
)
WHOLE = Window(PAIR, range(9), 0)


def make_target(**keys: Any) -> Target:
    return Target(WHOLE, 0, 4, "yes", [True] * 9, **keys)


def test_tokens_are_told_under_their_names() -> None:
    spans = token_spans(WHOLE, NAMES)
    assert [each.word for each in spans] == NAMES
    assert [each.text for each in spans] == PAIR.sequences
    assert [(each.start, each.end) for each in spans] == PAIR.offsets
    assert [each.positions for each in spans] == [[place] for place in range(9)]


def test_tokens_of_a_part_are_counted_from_its_beginning() -> None:
    part = Window(PAIR, [0, 2, 3, 8], 0)
    assert token_spans(part, ["[CLS]", "##happy", "cats", "[SEP]"]) == [
        ("[CLS]", None, 0, 0, [0]),
        ("##happy", 0, 2, 7, [1]),
        ("cats", 0, 8, 12, [2]),
        ("[SEP]", None, 0, 0, [3]),
    ]


def test_tokens_need_a_name_each() -> None:
    with pytest.raises(ValueError, match="zip"):
        token_spans(WHOLE, NAMES[:-1])


def test_words_are_whole_and_as_the_texts_write_them() -> None:
    assert word_spans(WHOLE, NAMES, TEXTS) == [
        ("unhappy", 0, 0, 7, [1, 2]),
        ("cats", 0, 8, 12, [3]),
        ("no", 1, 0, 2, [5]),
        ("cats", 1, 3, 7, [6, 7]),
    ]


def test_words_of_many_tokens_grow_token_by_token() -> None:
    tokens = Tokens([5] * 4, [0] * 4, [0] * 4, [0, 0, 0, 1], [(1, 2), (2, 4), (4, 7), (8, 9)])
    found = word_spans(Window(tokens, range(4), 0), ["", "", "", ""], [" abcdef g"])
    assert found == [("abcdef", 0, 1, 7, [0, 1, 2]), ("g", 0, 8, 9, [3])]


def test_words_of_one_number_in_two_texts_are_two() -> None:
    """Also where nothing stands between the texts."""
    tokens = Tokens([5, 6], [0, 1], [0, 1], [3, 3], [(0, 2), (0, 2)])
    found = word_spans(Window(tokens, range(2), 0), ["", ""], ["ab", "cd"])
    assert found == [("ab", 0, 0, 2, [0]), ("cd", 1, 0, 2, [1])]


def test_special_token_ends_a_word() -> None:
    tokens = Tokens([5] * 3, [0] * 3, [0, None, 0], [0, None, 0], [(0, 1), (0, 0), (1, 2)])
    found = word_spans(Window(tokens, range(3), 0), ["a", "[MASK]", "b"], ["ab"])
    assert found == [("a", 0, 0, 1, [0]), ("b", 0, 1, 2, [2])]


def test_tokens_without_words_and_places_stay_tokens() -> None:
    """As those that were encoded elsewhere; a token may know its place and not its word."""
    tokens = Tokens([5] * 3, [0] * 3, [0, 0, 0], [None] * 3, [(0, 0), (0, 0), (3, 5)])
    found = word_spans(Window(tokens, range(3), 0), ["one", "two", "three"], ["abcdef"])
    assert found == [("one", 0, 0, 0, [0]), ("two", 0, 0, 0, [1]), ("de", 0, 3, 5, [2])]


def test_importance_of_a_word_is_that_of_its_tokens_together() -> None:
    importances = [9.0, 0.5, -0.25, 1.0, 9.0, 2.0, 0.125, 0.5, 9.0]
    assert sum_spans(importances, word_spans(WHOLE, NAMES, TEXTS)) == [0.25, 1.0, 2.0, 0.625]
    assert sum_spans(importances, token_spans(WHOLE, NAMES)) == importances
    assert sum_spans(importances, []) == []


@pytest.mark.parametrize(
    ("texts", "granularity", "told"),
    [
        ([0, 0], "token", {"words": ["a", "b"]}),
        ([0, 1], "token", {"words": ["a", "b"]}),
        ([0, 0], "word", {"words": ["a", "b"], "offsets": [[0, 1], [2, 3]]}),
        ([0, 1], "word", {"words": ["a", "b"], "offsets": [[0, 1], [2, 3]], "texts": [0, 1]}),
    ],
)
def test_words_are_told_with_their_places(
    texts: list[int], granularity: str, told: dict[str, Any]
) -> None:
    """Tokens without; the number of the text where there are two."""
    spans = [WordSpan("a", texts[0], 0, 1, [0]), WordSpan("b", texts[1], 2, 3, [1])]
    assert dict(describe_spans(spans, granularity)) == told


@pytest.mark.parametrize(
    ("target", "metrics", "facts"),
    [
        (make_target(), {}, {"target": "yes", "n_steps": 20}),
        (
            make_target(probability=0.0),
            {"sufficiency": 0.5},
            {"target": "yes", "probability": 0.0, "n_steps": 20, "sufficiency": 0.5},
        ),
        (
            make_target(probability=0.75, about={"side": "start"}),
            {},
            {"target": "yes", "probability": 0.75, "side": "start", "n_steps": 20},
        ),
    ],
)
def test_facts_are_what_is_known_of_a_target(
    target: Target, metrics: dict[str, float], facts: dict[str, Any]
) -> None:
    explained = Explained(target, [0.0] * 9, 0.1, 20, metrics)
    assert list(explained.facts().items()) == list(facts.items())
