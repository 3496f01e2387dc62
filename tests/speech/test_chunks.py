"""Chunks of long waveforms: the frames that each sees and keeps, and what they make together."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechtext.errors import NonFiniteOutputError
from speechtext.speech.chunks import (
    Chunk,
    FrameGrid,
    OrderedChunks,
    Windows,
    cut_chunks,
    cut_waveform,
    join_chunks,
    plan_chunks,
)

GRID = FrameGrid(400, 320)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 1), (1, 1), (400, 1), (719, 1), (720, 2), (1_039, 2), (1_040, 3), (16_000, 49)],
)
def test_frames_are_as_many_as_fit(samples: int, frames: int) -> None:
    assert GRID.count_frames(samples) == frames
    # As a convolution of such a kernel and stride counts them; shorter ones are filled up.
    network = torch.nn.Conv1d(1, 1, GRID.field, GRID.stride)
    assert network(torch.zeros(1, max(samples, GRID.field))).shape[1] == frames


def test_each_sample_may_be_a_frame() -> None:
    assert [FrameGrid(1, 1).count_frames(samples) for samples in (0, 1, 2, 9)] == [1, 1, 2, 9]


def test_frames_are_a_fiftieth_of_a_second_apart() -> None:
    assert GRID.frame_s == 0.02
    assert FrameGrid(100, 1_280).frame_s == 0.08


@pytest.mark.parametrize(
    ("frames", "length", "stride", "expected"),
    [
        (0, 10, 2, []),
        (10, 10, 2, [(0, 10, 0, 10)]),
        (7, 10, 2, [(0, 7, 0, 7)]),
        # The second and last one is as long as the first, and has more context for it.
        (11, 10, 2, [(0, 10, 0, 8), (1, 11, 8, 11)]),
        (25, 10, 2, [(0, 10, 0, 8), (6, 16, 8, 14), (12, 22, 14, 20), (15, 25, 20, 25)]),
        (22, 10, 2, [(0, 10, 0, 8), (6, 16, 8, 14), (12, 22, 14, 22)]),
        (6, 2, 0, [(0, 2, 0, 2), (2, 4, 2, 4), (4, 6, 4, 6)]),
        (3, 1, 0, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
    ],
)
def test_chunks_by_hand(
    frames: int, length: int, stride: int, expected: list[tuple[int, int, int, int]]
) -> None:
    assert cut_chunks(frames, length, stride) == expected


@pytest.mark.parametrize(
    ("samples", "windows", "length", "stride"),
    [
        (160_000, Windows(4, 1), 200, 50),
        (160_000, Windows(1.01, 0.21), 50, 10),
        (8_000, Windows(4, 1), 24, 50),
        # Shorter than a frame: one frame all the same.
        (1_040, Windows(0.001, 0), 1, 0),
    ],
)
def test_windows_are_in_seconds(samples: int, windows: Windows, length: int, stride: int) -> None:
    chunks = plan_chunks(GRID, samples, windows)
    assert chunks[-1].stop == chunks[-1].last_kept == GRID.count_frames(samples)
    assert {chunk.stop - chunk.start for chunk in chunks} == {length}
    assert [chunk.stop - chunk.last_kept for chunk in chunks[:-1]] == [stride] * (len(chunks) - 1)
    assert [a.last_kept for a in chunks[:-1]] == [b.first_kept for b in chunks[1:]]


@pytest.mark.parametrize(
    ("windows", "frames"),
    [
        # In seconds they are more than twice as long.
        (Windows(1.01, 0.5), "50 and 25"),
        (Windows(0.019, 0.009), None),
        (Windows(0.05, 0.021), "2 and 1"),
        (Windows(4, 2.5), "200 and 125"),
        (Windows(1.02, 0.5), None),
    ],
)
def test_windows_are_more_than_context(windows: Windows, frames: str | None) -> None:
    if frames is None:
        assert plan_chunks(GRID, 160_000, windows)[-1].stop == GRID.count_frames(160_000)
        return
    message = rf"chunk_length_s: expected more than twice .* frames of 0\.02 s, got {frames} frames"
    with pytest.raises(ValueError, match=message):
        # Also of a recording that fits into one.
        plan_chunks(GRID, 1, windows)


def test_samples_of_a_chunk_are_those_of_its_frames() -> None:
    waveform = torch.arange(2_000)
    assert GRID.count_frames(2_000) == 6
    found = [cut_waveform(waveform, GRID, Chunk(*each, 0, 0)) for each in [(0, 2), (2, 5), (3, 6)]]
    edges = [(int(each[0]), int(each[-1])) for each in found]
    # The last one has the 200 samples that fill no frame, too.
    assert edges == [(0, 719), (640, 640 + 2 * 320 + 399), (960, 1_999)]


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_what_is_said_of_chunks_is_joined_to_that_of_the_whole(
    frames: int, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, (length - 1) // 2))
    chunks = cut_chunks(frames, length, stride)
    whole = torch.arange(2.0 * frames).reshape(frames, 2)
    said = [whole[chunk.start : chunk.stop] for chunk in chunks]
    assert torch.equal(join_chunks(chunks, said), whole)
    order = list(range(len(chunks)))
    random.Random(frames).shuffle(order)
    # With layers before the frames, as a model with several says it.
    layers = [torch.stack([each, -each]) for each in said]
    ordered = OrderedChunks(chunks)
    told = [each for place in order for each in ordered.add(place, layers[place])]
    assert len(told) == len(chunks)
    assert torch.equal(torch.cat(told, dim=1), torch.stack([whole, -whole]))


def test_frames_are_told_as_soon_as_all_before_them_are_there() -> None:
    chunks = cut_chunks(25, 10, 2)
    ordered = OrderedChunks(chunks)
    told = [
        [frames[:, 0].tolist() for frames in ordered.add(place, torch.arange(10.0)[:, None])]
        for place in (1, 0, 3, 2)
    ]
    first, middle, last = [*map(float, range(8))], [2.0, 3, 4, 5, 6, 7], [5.0, 6, 7, 8, 9]
    assert told == [[], [first, middle], [], [middle, last]]


def test_joined_chunks_have_to_be_as_many() -> None:
    with pytest.raises(ValueError, match="longer"):
        join_chunks(cut_chunks(25, 10, 2), [torch.zeros(10, 1)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frames_without_numbers_are_an_error_where_they_are_kept(value: float) -> None:
    chunks = cut_chunks(25, 10, 2)
    broken = torch.zeros(10, 1)
    broken[-1] = value
    # The first chunk keeps 8 of its 10 frames.
    assert len(list(OrderedChunks(chunks).add(0, broken))) == 1
    broken[0] = value
    with pytest.raises(NonFiniteOutputError):
        list(OrderedChunks(chunks).add(0, broken))
