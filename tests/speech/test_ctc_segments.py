"""Segments of a best path, whatever the pieces that the emission comes in."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.ctc.segments import BestPathSegments, SegmentLimits, SegmentTeller
from speechtext.speech.transcripts import Segment, Token

BLANK, DELIMITER = 0, 1
# Runs of a label: blanks and delimiters long enough to end segments, letters of words.
RUNS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 1, 2, 3]), st.integers(1, 8)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(RUNS, st.lists(st.integers(0, 120), max_size=8), st.integers(1, 8), st.integers(1, 60))
def test_segments_do_not_depend_on_the_pieces(
    runs: list[tuple[int, int]], cuts: list[int], silent_frames: int, longest_frames: int
) -> None:
    path = [label for label, count in runs for _ in range(count)]
    emission = torch.rand(len(path), 4, generator=torch.manual_seed(0))
    for frame, label in enumerate(path):
        emission[frame, label] += 1
    probabilities = emission / emission.sum(dim=1, keepdim=True)
    words = group_words(find_best_path(probabilities, BLANK), DELIMITER)
    limits = SegmentLimits(silent_frames, longest_frames)
    expected = limits.split(words)
    segments = BestPathSegments(BLANK, DELIMITER, limits)
    found = []
    for low, high in itertools.pairwise([0, *sorted(min(cut, len(path)) for cut in cuts), None]):
        found += segments.take_ended(probabilities[low:high])
    found += segments.take_rest()
    assert found == expected
    for before, after in itertools.pairwise(found):
        silence = after[0][0].start - before[-1][-1].stop
        assert silence >= silent_frames or after[0][-1].stop - before[0][0].start > longest_frames
    assert all(
        len(each) == 1 or each[-1][-1].stop - each[0][0].start <= longest_frames for each in found
    )


def test_a_segment_is_told_as_soon_as_its_silence_is_over() -> None:
    path = [2, 0, 3, 1, 0, 0, 0, 2]
    probabilities = torch.eye(4)[path]
    segments = BestPathSegments(BLANK, DELIMITER, SegmentLimits(3, 100))
    told = [len(segments.take_ended(frame[None])) for frame in probabilities]
    # The label of the last frame is known to be over one frame later.
    assert told == [0, 0, 0, 0, 0, 0, 0, 1]
    assert len(segments.take_rest()) == 1
    # Within a word, whose delimiter has not come, silence ends nothing.
    open_word = BestPathSegments(BLANK, DELIMITER, SegmentLimits(3, 100))
    assert open_word.take_ended(torch.eye(4)[[2, 0, 0, 0, 0, 3, 1]]) == []
    assert len(open_word.take_rest()) == 1


def test_silence_of_just_the_limit_ends_a_segment() -> None:
    segments = BestPathSegments(BLANK, DELIMITER, SegmentLimits(3, 100))
    told = [len(segments.take_ended(frame[None])) for frame in torch.eye(4)[[2, 1, 0, 0, 1]]]
    assert told == [0, 0, 0, 0, 1]
    assert segments.take_rest() == []


def test_a_segment_before_an_open_word_is_told() -> None:
    segments = BestPathSegments(BLANK, DELIMITER, SegmentLimits(3, 100))
    told = segments.take_ended(torch.eye(4)[[2, 1, 0, 0, 0, 3, 0]])
    assert [[[token.label for token in word] for word in words] for words in told] == [[[2]]]


def test_segments_of_words_that_nothing_separates() -> None:
    """Each piece but 3 begins a word, and words follow one another without a frame between."""
    starts = frozenset({1, 2})
    segments = BestPathSegments(BLANK, None, SegmentLimits(10, 3), starts)
    told = segments.take_ended(torch.eye(4)[[1, 1, 3, 2, 2, 3, 1, 1]])
    rest = segments.take_rest()
    labels = [[[token.label for token in word] for word in words] for words in [*told, *rest]]
    assert labels == [[[1, 3]], [[2, 3]], [[1]]]
    assert [len(told), len(rest)] == [1, 2]


def tokens_at(*frames: tuple[int, int]) -> list[list[Token]]:
    """Return a word for each start and stop, of one token each."""
    return [[Token(2, start, stop, 1.0)] for start, stop in frames]


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        ([], []),
        ([(0, 2)], [1]),
        # Silences of 2 and 3 frames, of which the latter ends a segment.
        ([(0, 2), (4, 5), (8, 9)], [2, 1]),
        # The third word ends at the tenth frame, with which there are no more than ten; the next
        # one begins a segment, at its own start.
        ([(0, 3), (4, 6), (7, 10), (11, 12), (13, 21)], [3, 2]),
        ([(5, 8), (9, 15), (16, 17)], [2, 1]),
        # A word that is too long is a segment of its own.
        ([(0, 1), (2, 14), (15, 16)], [1, 1, 1]),
    ],
)
def test_segments_by_hand(words: list[tuple[int, int]], counts: list[int]) -> None:
    spoken = tokens_at(*words)
    segments = SegmentLimits(silent_frames=3, longest_frames=10).split(spoken)
    assert [len(segment) for segment in segments] == counts
    assert [word for segment in segments for word in segment] == spoken


def test_word_of_several_tokens_reaches_from_the_first_to_the_last() -> None:
    one = [Token(2, 0, 1, 1.0), Token(3, 4, 5, 1.0)]
    other = [Token(2, 7, 8, 1.0), Token(3, 9, 11, 1.0)]
    assert SegmentLimits(3, 11).split([one, other]) == [[one, other]]
    assert SegmentLimits(2, 11).split([one, other]) == [[one], [other]]
    assert SegmentLimits(3, 10).split([one, other]) == [[one], [other]]


def test_words_begin_with_their_pieces_where_nothing_ends_them() -> None:
    """Labels 2 and 3 begin words, 4 goes on: as a model of word pieces has them."""
    path = [2, 2, 4, 0, 3, 0, 0, 0, 0, 2, 0]
    probabilities = torch.eye(5)[path]
    limits = SegmentLimits(4, 100)
    whole = BestPathSegments(BLANK, None, limits, frozenset({2, 3}))
    found = whole.take_ended(probabilities) + whole.take_rest()
    labels = [[[token.label for token in word] for word in segment] for segment in found]
    assert labels == [[[2, 4], [3]], [[2]]]
    times = [[(word[0].start, word[-1].stop) for word in segment] for segment in found]
    assert times == [[(0, 3), (4, 5)], [(9, 10)]]


def test_tokens_have_the_frames_and_confidence_of_the_whole() -> None:
    path = [2, 2, 0, 0, 1, 0, 3]
    probabilities = torch.eye(4)[path] * 0.6 + 0.1
    probabilities[1, 2], probabilities[1, 0] = 0.5, 0.3
    segments = BestPathSegments(BLANK, DELIMITER, SegmentLimits(2, 100))
    ended = [segment for frame in probabilities for segment in segments.take_ended(frame[None])]
    rest = segments.take_rest()
    # Behind the first word are three frames that are no letters; in the next segment its last.
    first, last = (segment[0][0] for segment in [*ended, *rest])
    assert (first.label, first.start, first.stop) == (2, 0, 2)
    assert first.confidence == pytest.approx((0.7 + 0.5) / 2)
    assert (last.label, last.start, last.stop) == (3, 6, 7)
    assert last.confidence == pytest.approx(0.7)


def test_nothing_has_no_segments() -> None:
    segments = BestPathSegments(BLANK, DELIMITER, SegmentLimits(1, 1))
    assert segments.take_rest() == []
    assert segments.take_ended(torch.zeros(0, 4)) == []
    assert segments.take_ended(torch.eye(4)[[0, 1, 0]]) == []
    assert segments.take_rest() == []


def test_listener_gets_each_segment_with_its_number() -> None:
    heard: list[tuple[int, int, Segment]] = []
    teller = SegmentTeller(
        lambda index, number, segment: heard.append((index, number, segment)),
        lambda words: Segment(f"{len(words)} words", []),
    )
    one, two = tokens_at((0, 1)), tokens_at((0, 1), (2, 3))
    teller.tell(4, [one, two])
    teller.tell(7, [one])
    teller.tell(4, [])
    teller.tell(4, [two])
    texts = [(index, number, segment.text) for index, number, segment in heard]
    assert texts == [
        *[(4, 0, "1 words"), (4, 1, "2 words"), (7, 0, "1 words"), (4, 2, "2 words")],
    ]
