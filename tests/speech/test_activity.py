"""From probabilities of frames to who is active when."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.chunks import cut_chunks, join_chunks
from speechtext.speech.heads.activity import (
    MOST_ORDERED,
    Activity,
    find_activities,
    keep_speakers,
    match_speakers,
    write_json,
    write_rttm,
)

FRAME_S = 0.02


def talk(frames: int, speakers: int, chance: torch.Generator) -> torch.Tensor:
    """Return who speaks when: everybody in each stretch that two windows share."""
    turns = torch.arange(frames)[:, None] // 7 % speakers == torch.arange(speakers)
    return turns.float() * 0.8 + 0.1 * torch.rand(frames, speakers, generator=chance)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, MOST_ORDERED + 2))
def test_speakers_keep_their_names_where_windows_order_them_anew(seed: int, speakers: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    chunks = cut_chunks(900, 300, 60)
    truth = talk(900, speakers, chance)
    orders = [torch.randperm(speakers, generator=chance) for _ in chunks]
    said = [
        truth[chunk.start : chunk.stop][:, order]
        for chunk, order in zip(chunks, orders, strict=True)
    ]
    stitched = join_chunks(chunks, keep_speakers(chunks, said))
    assert torch.equal(stitched, truth[:, orders[0]])


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_order_is_the_best_of_all(seed: int, speakers: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    before, after = (torch.rand(30, speakers, generator=chance) for _ in range(2))
    order = match_speakers(before, after)
    likeness = {
        each: float((before.double() * after[:, list(each)].double()).sum())
        for each in itertools.permutations(range(speakers))
    }
    assert likeness[tuple(order)] == pytest.approx(max(likeness.values()))


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ("000", (0.5, 0, 0), []),
        ("110011", (0.5, 0, 0), [(0, 2), (4, 6)]),
        # A gap of two frames is bridged where three are not too many.
        ("110011", (0.5, 0, 3 * FRAME_S), [(0, 6)]),
        ("110011", (0.5, 0, 2 * FRAME_S), [(0, 2), (4, 6)]),
        ("101110", (0.5, 3 * FRAME_S, 0), [(2, 5)]),
        # First bridged, then too short or not.
        ("101000", (0.5, 3 * FRAME_S, 2 * FRAME_S), [(0, 3)]),
    ],
)
def test_hand_computed_segments(
    row: str, options: tuple[float, float, float], expected: list[tuple[int, int]]
) -> None:
    probabilities = torch.tensor([[float(each)] for each in row])
    found = find_activities(probabilities, ["voice"], FRAME_S, *options)
    assert [(round(each.start_s / FRAME_S), round(each.end_s / FRAME_S)) for each in found] == (
        expected
    )


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.integers(0, 4), st.integers(0, 4))
def test_segments_are_those_of_a_loop_over_frames(
    seed: int, threshold: float, least: int, gap: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(80, 3, generator=chance)
    # Just below whole frames, which floats may miss.
    limits = max(0, least - 0.5) * FRAME_S, max(0, gap - 0.5) * FRAME_S
    found = find_activities(probabilities, ["a", "b", "c"], FRAME_S, threshold, *limits)
    expected = []
    for column, label in enumerate("abc"):
        active = [bool(each >= threshold) for each in probabilities[:, column]]
        for start, stop in _bridged(active, gap):
            if stop - start >= least:
                expected.append((label, start, stop))
    got = [(e.label, round(e.start_s / FRAME_S), round(e.end_s / FRAME_S)) for e in found]
    assert sorted(got) == sorted(expected)
    assert [each.start_s for each in found] == sorted(each.start_s for each in found)
    for each, (label, start, stop) in zip(found, got, strict=True):
        assert each.score == pytest.approx(
            float(probabilities[start:stop, "abc".index(label)].mean()), abs=1e-6
        )


def _bridged(active: list[bool], gap: int) -> list[tuple[int, int]]:
    """Return the runs of a row, those less than `gap` frames apart as one."""
    runs: list[tuple[int, int]] = []
    for frame, is_active in enumerate(active):
        if not is_active:
            continue
        if runs and frame - runs[-1][1] < max(gap, 1):
            runs[-1] = runs[-1][0], frame + 1
        else:
            runs.append((frame, frame + 1))
    return runs


def test_json_and_rttm() -> None:
    spoken = [Activity(0.02, 1.5, "speaker 1", 0.75), Activity(1.0, 2.25, "b", 1.0)]
    assert write_json(spoken)[0] == {"start": 0.02, "end": 1.5, "label": "speaker 1", "score": 0.75}
    lines = write_rttm(spoken).splitlines()
    assert lines == [
        "SPEAKER recording 1 0.020 1.480 <NA> <NA> speaker_1 <NA> <NA>",
        "SPEAKER recording 1 1.000 1.250 <NA> <NA> b <NA> <NA>",
    ]
    assert all(len(line.split()) == 10 for line in lines)
    assert math.isclose(sum(float(line.split()[4]) for line in lines), 2.73)
