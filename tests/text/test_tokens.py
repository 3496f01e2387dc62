"""Long texts are cut as the tokenizers library cuts them, and no token is lost or doubled."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GemmaTokenizer, LlamaTokenizer

from benchmarks.random_text_models import make_tokenizer
from repository import ROOT
from speechtext.text.tokens import (
    Tokens,
    Window,
    adopt_tokens,
    cut_end,
    cut_windows,
    merge_windows,
    tokenize,
)
from support.llama import make_spaced_tokenizer

WORDS = st.lists(
    st.sampled_from(["Ann", "works", "in", "Ljubljana", "🙂", "1987", "."]), min_size=1
)
LENGTHS = st.integers(8, 30)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(ROOT / "demo_models" / "bert_question_answering")


def read(tokenizer: Any, texts: list[str]) -> Tokens:
    return tokenize(tokenizer, [texts[0] if len(texts) == 1 else (texts[0], texts[1])])[0]


@settings(max_examples=300)
@given(texts=st.lists(WORDS, min_size=1, max_size=2), most=LENGTHS, left=st.booleans())
def test_ends_are_cut_as_the_tokenizer_does(
    tokenizer: Any, texts: list[list[str]], most: int, left: bool
) -> None:
    joined = [" ".join(words) for words in texts]
    tokens = read(tokenizer, joined)
    tokenizer.truncation_side = side = "left" if left else "right"
    expected = tokenizer(*joined, truncation="longest_first", max_length=most)["input_ids"]
    tokenizer.truncation_side = "right"
    row = Window(tokens, cut_end(tokens, most, side), 0)
    assert row.pick(tokens.ids) == expected


@settings(max_examples=300)
@given(question=WORDS, context=WORDS, most=st.integers(16, 40), stride=st.integers(0, 6))
def test_windows_are_those_of_the_tokenizer(
    tokenizer: Any, question: list[str], context: list[str], most: int, stride: int
) -> None:
    texts = [" ".join(question[:2]), " ".join(context * 3)]
    tokens = read(tokenizer, texts)
    if most - tokens.count(0) - 3 <= stride:
        return
    expected = tokenizer(
        *texts,
        truncation="only_second",
        max_length=most,
        stride=stride,
        return_overflowing_tokens=True,
    )
    windows = [Window(tokens, positions, 0) for positions in cut_windows(tokens, 1, most, stride)]
    assert [row.pick(tokens.ids) for row in windows] == expected["input_ids"]
    assert [row.pick(tokens.type_ids) for row in windows] == expected["token_type_ids"]


@settings(max_examples=100)
@given(text=WORDS, most=st.integers(8, 20), stride=st.integers(0, 4))
def test_each_token_is_taken_from_the_window_that_sees_most_around_it(
    tokenizer: Any, text: list[str], most: int, stride: int
) -> None:
    tokens = read(tokenizer, [" ".join(text * 2)])
    rows = [Window(tokens, positions, 0) for positions in cut_windows(tokens, 0, most, stride)]
    own = [place for place, each in enumerate(tokens.sequences) if each == 0]
    marked = [(row, torch.full((len(row),), float(index))) for index, row in enumerate(rows)]
    chosen = {place: int(value) for place, value in merge_windows(marked, 0).items()}
    assert list(chosen) == own

    def seen_around(place: int, row: Window) -> int:
        inside = [each for each in row.positions if each in own]
        before = len(own) if inside[0] == own[0] else place - inside[0]
        behind = len(own) if inside[-1] == own[-1] else inside[-1] - place
        return min(before, behind)

    for place, index in chosen.items():
        holding = [row for row in rows if place in row.positions]
        assert seen_around(place, rows[index]) == max(seen_around(place, row) for row in holding)


def test_window_without_room_is_refused(tokenizer: Any) -> None:
    tokens = read(tokenizer, ["who works where", "Ann works in Ljubljana"])
    with pytest.raises(ValueError, match="no room"):
        cut_windows(tokens, 1, most=tokens.count(0) + 5, stride=2)


@pytest.mark.parametrize("texts", [["Ann works."], ["Who works?", "Ann works in Ljubljana."]])
def test_rows_encoded_elsewhere_get_the_tokenizers_segments(
    tokenizer: Any, texts: list[str]
) -> None:
    tokens = read(tokenizer, texts)
    frame = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    adopted = adopt_tokens(tokens.ids, frame, tokenizer.sep_token_id)
    assert adopted.sequences == tokens.sequences
    assert adopted.type_ids == tokens.type_ids


def test_two_separators_between_two_texts_are_one_border() -> None:
    start, end = 0, 2
    adopted = adopt_tokens([start, 7, end, end, 8, 9, end], {start, end}, end)
    assert adopted.sequences == [None, 0, None, None, 1, 1, None]


def test_long_texts_are_encoded_like_others(tokenizer: Any) -> None:
    short, long = "Ann works in Ljubljana.", "Ann works in Ljubljana. " * 500
    texts: list[str | tuple[str, str]] = [short, long, (short, long), (long, short)]
    backend = tokenizer.backend_tokenizer
    # A tokenizer keeps how it cut the last texts.
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch(texts)
    for tokens, encoding in zip(tokenize(tokenizer, texts), encodings, strict=True):
        assert tokens.ids == encoding.ids
        assert tokens.offsets == encoding.offsets
        assert tokens.sequences == encoding.sequence_ids
        assert tokens.words == encoding.word_ids


SPACED = "kalo miren  stoba ħ vitu"


@pytest.mark.parametrize(
    ("tokenizer_class", "texts", "words"),
    [
        # "▁kalo", "▁miren", "▁", "▁stoba", "▁", two bytes of one character, and "▁vitu".
        (LlamaTokenizer, [SPACED], [0, 1, 2, 2, 3, 3, 3, 4]),
        (GemmaTokenizer, [SPACED], [0, 1, 2, 2, 3, 3, 3, 4]),
        # Tokens of a word, where there are several, stay together: "st" and "oba".
        (GemmaTokenizer, ["stoba kalo"], [0, 0, 1]),
        # A special token in a text is a word of its own.
        (LlamaTokenizer, ["kalo miren</s> stoba vitu"], [0, 1, 2, 3, 4]),
        (LlamaTokenizer, ["kalo  "], [0, 1, 1]),
        (LlamaTokenizer, ["kalo"], [0]),
        (LlamaTokenizer, ["kalo miren", "stoba vitu kalo"], [0, 1, 0, 1, 2]),
    ],
)
def test_white_space_parts_words_where_the_tokenizer_has_but_one(
    tokenizer_class: Any, texts: list[str], words: list[int]
) -> None:
    tokenizer = make_spaced_tokenizer(tokenizer_class)
    encoding = tokenizer.backend_tokenizer.encode(*texts)
    assert len(set(encoding.word_ids)) < len(set(words)) or len(words) == 1
    tokens = read(tokenizer, texts)
    assert tokens.words == words
    assert (tokens.ids, tokens.offsets) == (encoding.ids, encoding.offsets)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "gpt2", "llama", "modernbert"])
def test_words_are_those_of_the_tokenizer_where_it_has_several(kind: str) -> None:
    tokenizer: Any = make_tokenizer(kind, 128)
    for texts in (["kalo  miren\n\n\nstoba ħ🙂 vitu "], [" kalo-miren", "Stoba, vitu!"]):
        expected = tokenizer.backend_tokenizer.encode(*texts).word_ids
        assert read(tokenizer, texts).words == expected


def count_up(sequences: Sequence[int | None]) -> Tokens:
    """Return tokens of texts as given, the ids from 100 on, each token a word of one character."""
    count = len(sequences)
    places = [(place, place + 1) for place in range(count)]
    return Tokens([*range(100, 100 + count)], [0] * count, [*sequences], [*range(count)], places)


def test_tokens_encoded_elsewhere_have_no_words_and_no_characters() -> None:
    # A separator before any text ends none.
    assert adopt_tokens([0, 2, 7, 2, 8], {0, 2}, 2) == Tokens(
        ids=[0, 2, 7, 2, 8],
        type_ids=[0, 0, 0, 0, 1],
        sequences=[None, None, 0, None, 1],
        words=[None] * 5,
        offsets=[(0, 0)] * 5,
    )
    # Where there is no separator, all is one text.
    assert adopt_tokens((5, 6), (), None).sequences == [0, 0]


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (1, [0, 4, 7]),
        (3, [0, 4, 7]),
        (4, [0, 1, 4, 7]),
        (6, [0, 1, 2, 4, 5, 7]),
        (7, [0, 1, 2, 4, 5, 6, 7]),
    ],
)
def test_special_tokens_stay_however_little_room_there_is(most: int, kept: list[int]) -> None:
    assert cut_end(count_up([None, 0, 0, 0, None, 1, 1, None]), most) == kept


@pytest.mark.parametrize(
    ("own", "stride", "windows"),
    [
        # What all of it is shared with no other window is in one window.
        (1, 1, [[0, 1, 2]]),
        (2, 1, [[0, 1, 2, 3]]),
        (3, 1, [[0, 1, 2, 4], [0, 2, 3, 4]]),
        (0, 1, [[0, 1]]),
        (4, 0, [[0, 1, 2, 5], [0, 3, 4, 5]]),
    ],
)
def test_windows_begin_where_the_one_before_has_not_seen_all(
    own: int, stride: int, windows: list[list[int]]
) -> None:
    assert cut_windows(count_up([None, *[0] * own, None]), 0, 4, stride) == windows


def test_an_end_of_the_text_is_no_end_of_what_a_window_sees() -> None:
    tokens = count_up([None, 0, 0, 0, 0, 0, None])

    def choose(*windows: Sequence[int]) -> dict[int, int]:
        """Return for each token the number of the window that it is taken from."""
        rows = [Window(tokens, positions, 0) for positions in windows]
        marked = [(row, torch.full((len(row),), index)) for index, row in enumerate(rows)]
        return {position: int(index) for position, index in merge_windows(marked, 0).items()}

    whole = range(7)
    # Both see all that is before the first token, and the longer one more of what is behind it.
    assert choose([0, 1, 2, 3, 6], whole) == dict.fromkeys(range(1, 6), 1)
    assert choose([0, 3, 4, 5, 6], whole) == dict.fromkeys(range(1, 6), 1)
    # Where the second window begins it sees nothing before, but for what is not in the first.
    assert choose([0, 1, 2, 3, 6], [0, 2, 3, 4, 5, 6]) == {1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    # Of two that see as much it is the first.
    assert choose(whole, whole) == dict.fromkeys(range(1, 6), 0)


def test_a_text_without_tokens_gets_no_values() -> None:
    window = Window(count_up([None, None]), range(2), 0)
    assert merge_windows([(window, torch.ones(2))], 0) == {}


def test_windows_come_with_a_value_for_each_token() -> None:
    window = Window(count_up([None, 0, None]), range(3), 0)
    with pytest.raises(ValueError, match="shorter"):
        merge_windows([(window, torch.ones(2))], 0)
