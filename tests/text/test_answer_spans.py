"""Answers of question answering beside the algorithm of transformers 4.57, written out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.text.answer_spans import Span, find_spans, rank_answers, score_context, whole_words


def reference_spans(
    starts: np.ndarray,
    ends: np.ndarray,
    context: np.ndarray,
    classifiers: list[int],
    longest: int,
    count: int,
) -> tuple[list[tuple[float, int, int]], float]:
    """Do what the pipeline does with the logits of one window: every pair is looked at.

    The classifier tokens may be chosen too, so that their probability counts, but are no answer.
    """
    among = context.copy()
    among[classifiers] = True
    probabilities = []
    for logits in (starts, ends):
        shifted = np.exp(np.where(among, logits, -10000.0) - logits[among].max())
        probabilities.append(shifted / shifted.sum())
    none = 0.0
    if classifiers:
        none = float(probabilities[0][classifiers[0]] * probabilities[1][classifiers[0]])
    found = [
        (float(probabilities[0][first] * probabilities[1][last]), first, last)
        for first in np.flatnonzero(context).tolist()
        for last in np.flatnonzero(context).tolist()
        if first <= last < first + longest
    ]
    return sorted(found, reverse=True)[:count], none


@settings(max_examples=500)
@given(data=st.data())
def test_spans_are_those_of_the_reference(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(2, 14))
    logits = st.lists(st.floats(-9, 9, width=32), min_size=tokens, max_size=tokens)
    starts, ends = (np.array(data.draw(logits)) for _ in range(2))
    context = np.array(
        [
            False,
            *data.draw(
                st.lists(st.booleans(), min_size=tokens - 1, max_size=tokens - 1).filter(any)
            ),
        ]
    )
    longest, count = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 30))
    # Where BERT has it, where XLNet has it, or nowhere, as in T5 and Llama; and one that was typed.
    outside = np.flatnonzero(~context).tolist()
    classifiers = data.draw(st.lists(st.sampled_from(outside), unique=True, max_size=2).map(sorted))
    expected, none = reference_spans(starts, ends, context, classifiers, longest, count)
    scores = score_context(
        torch.from_numpy(starts),
        torch.from_numpy(ends),
        torch.from_numpy(context),
        torch.tensor([place in classifiers for place in range(tokens)]),
    )
    found = find_spans(scores, longest, count)
    assert [span.score for span in found] == pytest.approx([each[0] for each in expected])
    assert scores.none == pytest.approx(none)
    assert scores.classifier == (classifiers[0] if classifiers else None)
    assert all(context[span.first] and context[span.last] for span in found)
    assert all(span.first <= span.last < span.first + longest for span in found)
    assert len({span[1:] for span in found}) == len(found)


def test_an_answer_far_less_probable_than_none_is_still_found() -> None:
    logits = torch.tensor([300.0, 0.0, 1.0])
    allowed = torch.tensor([False, True, True])
    scores = score_context(logits, logits, allowed, ~allowed)
    assert find_spans(scores, 2, 1)[0][1:] == (2, 2)


def test_answer_is_made_of_whole_words() -> None:
    words = [None, 0, 0, 1, None, 0, 1, 1, 1, None]
    assert whole_words(words, Span(1.0, 7, 7)) == (6, 8)
    assert whole_words(words, Span(1.0, 5, 6)) == (5, 8)
    assert whole_words([None, None], Span(1.0, 0, 0)) == (0, 0)


@pytest.mark.parametrize(
    ("words", "place", "whole"),
    [
        # Words of the question and of the context are counted from 0, and some rows have no frame.
        ([0, None, 0], 0, (0, 0)),
        ([0, None, 0], 2, (2, 2)),
        ([None, 0, 0], 2, (1, 2)),
        ([0, 0, None], 1, (0, 1)),
        ([0, 0], 0, (0, 1)),
        ([0, 0, 1], 0, (0, 1)),
        ([None, 1, 1, 1, 2], 1, (1, 3)),
    ],
)
def test_a_word_ends_with_its_row(
    words: list[int | None], place: int, whole: tuple[int, int]
) -> None:
    assert whole_words(words, Span(1.0, place, place)) == whole


def test_answers_that_differ_in_small_letters_are_several() -> None:
    context = "Straße STRASSE strasse"
    found = [(0.5, 0, 6), (0.125, 7, 14), (0.25, 15, 22)]
    assert rank_answers(found, context, None, 5) == [
        {"score": 0.5, "start": 0, "end": 6, "answer": "Straße"},
        {"score": 0.375, "start": 7, "end": 14, "answer": "STRASSE"},
    ]


def test_answers_that_read_the_same_are_one() -> None:
    context = "Ann met ann, then Bob."
    found = [(0.3, 0, 3), (0.4, 18, 21), (0.2, 8, 11)]
    expected: list[dict[str, Any]] = [
        {"score": pytest.approx(0.5), "start": 0, "end": 3, "answer": "Ann"},
        {"score": pytest.approx(0.4), "start": 18, "end": 21, "answer": "Bob"},
    ]
    assert rank_answers(found, context, None, 2) == expected
    assert rank_answers(found, context, 0.45, 2)[1] == {
        "score": 0.45,
        "start": 0,
        "end": 0,
        "answer": "",
    }
    assert rank_answers([], context, None, 1) == [
        {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    ]
