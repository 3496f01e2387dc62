"""Entities beside the pipeline "token-classification" of transformers, and cases worked out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast
from transformers.pipelines.token_classification import (
    AggregationStrategy,
    TokenClassificationPipeline,
)

from speechtext.text.entities import (
    Labelled,
    ScoredToken,
    entity_runs,
    find_entities,
    group_entities,
    label_tokens,
    label_words,
    resolve_overlaps,
)

# Names with and without the marks of the beginning and the inside, also with a dash of their own.
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "ORG", 4: "B-A-B", 5: "I-A-B"}
STRATEGIES = ["none", "simple", "first", "average", "max"]
PIECES = ["Ann", "##a", "works", ".", "##s"]


@pytest.fixture(scope="module")
def reference() -> Any:
    vocabulary = {piece: index for index, piece in enumerate(["[UNK]", *PIECES])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.decoder = decoders.WordPiece()
    config = BertConfig(
        vocab_size=8,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        id2label=LABELS,
    )
    return TokenClassificationPipeline(
        model=BertForTokenClassification(config),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer),
    )


def join(words: list[str]) -> str:
    return "+".join(words)


def score(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def token(word: str, start: int, scores: torch.Tensor, continues: bool = False) -> ScoredToken:
    """Return a token of a text, whose position is one behind its first character."""
    return ScoredToken(word, start, start + len(word), start + 1, continues, scores)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_the_pipeline(
    strategy: str, reference: Any, data: st.DataObject
) -> None:
    pieces = data.draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8))
    row = st.lists(st.integers(1, 50), min_size=len(LABELS), max_size=len(LABELS), unique=True)
    scores = [np.array(data.draw(row)) / 100 for _ in pieces]
    ignored = data.draw(st.sampled_from([["O"], [], ["PER", "B-PER"]]))
    tokens = [
        ScoredToken(
            piece, 5 * index, 5 * index + len(piece), index, piece[0] == "#", torch.tensor(values)
        )
        for index, (piece, values) in enumerate(zip(pieces, scores, strict=True))
    ]
    names = ("word", "start", "end", "index", "is_subword")
    given_to = [
        dict(zip(names, each, strict=False), scores=values)
        for each, values in zip(tokens, scores, strict=True)
    ]
    expected = [
        {**entity, "score": pytest.approx(float(entity["score"]))}
        for entity in reference.aggregate(given_to, AggregationStrategy(strategy))
        if entity.get("entity", entity.get("entity_group")) not in ignored
    ]
    to_string = reference.tokenizer.convert_tokens_to_string
    assert find_entities(tokens, LABELS, strategy, ignored, to_string) == expected


def test_tokens_get_their_most_probable_label() -> None:
    tokens = [token("Ann", 0, score(0.1, 0.75)), token("##a", 9, score(0.5, 0.25))]
    assert label_tokens(tokens, {0: "no", 1: "yes"}) == [
        Labelled("yes", 0.75, "Ann", 0, 3, 1),
        Labelled("no", 0.5, "##a", 9, 12, 10),
    ]


@pytest.mark.parametrize(
    ("strategy", "label", "probability"),
    [("first", "a", 0.5), ("average", "b", 0.375), ("max", "c", 0.625)],
)
def test_the_tokens_of_a_word_get_one_label(strategy: str, label: str, probability: float) -> None:
    tokens = [
        token("lj", 4, score(0.5, 0.375, 0.125)),
        token("##u", 6, score(0.0, 0.375, 0.625), continues=True),
        token("is", 10, score(0.0, 1.0, 0.0)),
    ]
    assert label_words(tokens, {0: "a", 1: "b", 2: "c"}, strategy, join) == [
        Labelled(label, probability, "lj+##u", 4, 9, 5),
        Labelled("b", 1.0, "is", 10, 12, 11),
    ]


def labelled(*labels: str) -> list[Labelled]:
    """Return words `w0`, `w1` and so on with labels, each three characters behind the last."""
    return [
        Labelled(label, (index + 1) / 8, f"w{index}", 3 * index, 3 * index + 2, index + 1)
        for index, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ([], []),
        (["B-PER", "I-PER", "I-PER"], [3]),
        (["B-PER", "B-PER"], [1, 1]),
        (["I-PER", "PER", "I-PER"], [3]),
        (["I-PER", "I-ORG", "O", "O", "B-ORG"], [1, 1, 2, 1]),
        (["BXPER", "I-PER"], [1, 1]),
    ],
)
def test_an_entity_begins_with_its_mark_or_where_the_kind_changes(
    labels: list[str], runs: list[int]
) -> None:
    words = labelled(*labels)
    found = list(entity_runs(words))
    assert [len(run) for run in found] == runs
    assert [each for run in found for each in run] == words


def test_a_group_has_the_mean_score_and_the_words_of_its_run() -> None:
    assert group_entities(labelled("B-A-B", "I-A-B", "I-A-B", "O"), join) == [
        {"entity_group": "A-B", "score": 0.25, "word": "w0+w1+w2", "start": 0, "end": 8},
        {"entity_group": "O", "score": 0.5, "word": "w3", "start": 9, "end": 11},
    ]


def test_tokens_are_told_alone_without_a_strategy() -> None:
    tokens = [token("Ann", 0, score(0.25, 0.75)), token("is", 4, score(0.75, 0.25))]
    names = {0: "O", 1: "B-PER"}
    ann = {"entity": "B-PER", "score": 0.75, "index": 1, "word": "Ann", "start": 0, "end": 3}
    other = {"entity": "O", "score": 0.75, "index": 5, "word": "is", "start": 4, "end": 6}
    assert find_entities(tokens, names, "none", ["O"], join) == [ann]
    assert find_entities(tokens, names, "none", ["B-PER"], join) == [other]
    assert find_entities(tokens, names, "none", [], join) == [ann, other]


def test_kinds_that_are_ignored_are_groups_and_not_labels() -> None:
    tokens = [token("Ann", 0, score(0.25, 0.75)), token("is", 4, score(0.75, 0.25))]
    names = {0: "O", 1: "B-PER"}
    for strategy in STRATEGIES[1:]:
        found = find_entities(tokens, names, strategy, ["PER"], join)
        assert [each["entity_group"] for each in found] == ["O"]
        found = find_entities(tokens, names, strategy, ["B-PER", "O"], join)
        assert [each["entity_group"] for each in found] == ["PER"]


def entity(start: int, end: int, probability: float) -> dict[str, Any]:
    return {"start": start, "end": end, "score": probability}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        # Those that only touch are two.
        (entity(0, 4, 0.9), entity(4, 6, 0.9), [0, 1]),
        # The longer one stays, whatever its score.
        (entity(0, 4, 0.9), entity(3, 8, 0.1), [1]),
        (entity(0, 5, 0.1), entity(3, 7, 0.9), [0]),
        (entity(2, 6, 0.1), entity(2, 5, 0.9), [0]),
        # Of two of a length it is the likelier one, of two alike the first.
        (entity(0, 4, 0.5), entity(2, 6, 0.6), [1]),
        (entity(0, 4, 0.6), entity(2, 6, 0.5), [0]),
        (entity(0, 4, 0.5), entity(2, 6, 0.5), [0]),
        # They come in the order of the text.
        (entity(7, 9, 0.5), entity(2, 6, 0.5), [1, 0]),
    ],
)
def test_of_two_entities_that_overlap_one_stays(
    first: dict[str, Any], second: dict[str, Any], kept: list[int]
) -> None:
    expected = [(first, second)[index] for index in kept]
    assert resolve_overlaps([first, second]) == expected


def test_no_entities_overlap_where_there_are_none() -> None:
    assert resolve_overlaps([]) == []


@settings(max_examples=100, deadline=None)
@given(
    found=st.lists(
        st.builds(
            lambda start, length, probability: entity(start, start + length, probability),
            st.integers(0, 12),
            st.integers(1, 6),
            st.sampled_from([0.25, 0.5, 0.75]),
        ),
        max_size=8,
    )
)
def test_overlaps_are_resolved_as_by_the_pipeline(
    reference: Any, found: list[dict[str, Any]]
) -> None:
    assert resolve_overlaps(found) == reference.aggregate_overlapping_entities(found)
