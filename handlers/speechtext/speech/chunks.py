"""Chunks of long waveforms: what a model sees at once, and the frames that are kept of it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from speechtext.finite import check_finite

SAMPLE_RATE_HZ = 16_000


class FrameGrid(NamedTuple):
    """Where a model's frames lie: frame `i` sees `field` samples from `i * stride` on."""

    field: int
    stride: int

    def count_frames(self, samples: int) -> int:
        """Return how many frames a waveform has; a shorter one than a frame is extended to one."""
        return max(0, samples - self.field) // self.stride + 1

    @property
    def frame_s(self) -> float:
        """Return the seconds from one frame to the next."""
        return self.stride / SAMPLE_RATE_HZ


class Windows(NamedTuple):
    """How long chunks are, and what each sees of its neighbours on each side, in seconds."""

    length_s: float
    stride_s: float


class Chunk(NamedTuple):
    """A stretch of a waveform, as frames: what the model sees and, within it, what is kept."""

    start: int
    stop: int
    first_kept: int
    last_kept: int


def cut_chunks(frames: int, length: int, stride: int) -> list[Chunk]:
    """Cut `frames` into chunks of at most `length`, with `stride` frames of context on each side.

    The kept frames of the chunks are all frames, each once and in order. The last chunk is as
    long as the others and ends with the waveform.
    """
    chunks, kept = [], 0
    while kept < frames:
        start = max(0, min(kept - stride, frames - length))
        stop = min(start + length, frames)
        last_kept = frames if stop == frames else stop - stride
        chunks.append(Chunk(start, stop, kept, last_kept))
        kept = last_kept
    return chunks


def plan_chunks(grid: FrameGrid, samples: int, windows: Windows) -> list[Chunk]:
    """Return the chunks of a waveform of so many samples at 16 kHz.

    Raises `ValueError` for windows that are, in whole frames, all context: the first recording that
    a model is tried with, when it is loaded, finds them.
    """
    length, stride = (int(each * SAMPLE_RATE_HZ / grid.stride) for each in windows)
    length = max(1, length)
    if length <= 2 * stride:
        raise ValueError(
            "handler.chunk_length_s: expected more than twice stride_length_s in frames of "
            f"{grid.frame_s:g} s, got {length} and {stride} frames."
        )
    return cut_chunks(grid.count_frames(samples), length, stride)


def cut_waveform(waveform: torch.Tensor, grid: FrameGrid, chunk: Chunk) -> torch.Tensor:
    """Return the samples of a chunk; the last one has those that fill no frame, too."""
    if chunk.stop == grid.count_frames(len(waveform)):
        return waveform[chunk.start * grid.stride :]
    return waveform[chunk.start * grid.stride : (chunk.stop - 1) * grid.stride + grid.field]


def join_chunks(chunks: Sequence[Chunk], outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the frames that chunks keep of the outputs for them, shape (frames, values)."""
    kept = ((each.first_kept - each.start, each.last_kept - each.start) for each in chunks)
    return torch.cat([frames[slice(*ends)] for frames, ends in zip(outputs, kept, strict=True)])


class OrderedChunks:
    """A model's outputs for a waveform's chunks, in their order, whatever order they come in."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self._early: dict[int, torch.Tensor] = {}
        self._next = 0

    def add(self, place: int, outputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Take the outputs for a chunk, shape (..., frames, values); yield the frames that follow.

        They follow on those that there were. Raises `NonFiniteOutputError`.
        """
        chunk = self._chunks[place]
        kept = slice(chunk.first_kept - chunk.start, chunk.last_kept - chunk.start)
        self._early[place] = outputs[..., kept, :]
        while (frames := self._early.pop(self._next, None)) is not None:
            check_finite(frames)
            self._next += 1
            yield frames
