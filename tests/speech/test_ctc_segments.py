"""Segments of a best path, whatever the pieces that the emission comes in."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.ctc.emissions import find_best_path, group_words
from speechtext.speech.ctc.segments import BestPathSegments, SegmentLimits

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
