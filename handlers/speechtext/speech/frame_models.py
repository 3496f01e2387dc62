"""The outputs of a model for each frame of waveforms, whole or in chunks, whatever the batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from speechtext.allowance import check_time
from speechtext.batching import plan_batches
from speechtext.finite import check_finite
from speechtext.speech.chunks import (
    Chunk,
    FrameGrid,
    OrderedChunks,
    Windows,
    join_chunks,
    plan_chunks,
)
from speechtext.speech.encoders import Encoder, Piece

# Gets the number of a waveform and the outputs for its next frames, shape (..., frames, values).
FrameListener = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class FrameModel:
    """An encoder, and a head that makes outputs of each frame's hidden states.

    With `layers` the head gets those of all layers, of shape (layers, frames, hidden).
    """

    encoder: Encoder
    head: Callable[[torch.Tensor], torch.Tensor]
    layers: bool = False

    @property
    def grid(self) -> FrameGrid:
        """Return where the frames lie that the head gets."""
        return self.encoder.choose_grid(self.layers)

    def cut(self, waveform: torch.Tensor, chunks: Sequence[Chunk]) -> list[Piece]:
        """Return chunks of these frames of a waveform, shape (samples,), as what `run` takes."""
        return self.encoder.cut(waveform, chunks, self.layers)

    def run(self, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the head's outputs for the frames of each piece, float32."""
        hidden = self.encoder.encode(pieces, self.layers)
        outputs = self.head(torch.cat(hidden, dim=-2)).float()
        return list(outputs.split([each.shape[-2] for each in hidden], dim=-2))


def compute_frames(
    model: FrameModel,
    waveforms: Sequence[torch.Tensor],
    windows: Windows,
    on_frames: FrameListener | None = None,
) -> list[torch.Tensor]:
    """Return a model's outputs for each waveform, shape (..., frames, values), on the CPU.

    `waveforms` have shape (samples,) at 16 kHz. Those longer than a window are cut into chunks.
    The outputs for a waveform are those that it gets alone, whatever its neighbours are.
    `on_frames` gets the frames of each waveform in order, as soon as they are there. Raises
    `NonFiniteOutputError`.
    """
    outputs: list[list[torch.Tensor]] = [[] for _ in waveforms]

    def keep(index: int, frames: torch.Tensor) -> None:
        outputs[index].append(frames)
        if on_frames:
            on_frames(index, frames)

    stream_frames(model, waveforms, windows, keep)
    return [torch.cat(each, dim=-2) for each in outputs]


def stream_frames(
    model: FrameModel,
    waveforms: Sequence[torch.Tensor],
    windows: Windows,
    on_frames: FrameListener,
) -> None:
    """Tell a listener what `compute_frames` returns, and keep none of it."""
    chunks = [plan_chunks(model.grid, len(waveform), windows) for waveform in waveforms]
    pieces = [
        piece
        for waveform, own in zip(waveforms, chunks, strict=True)
        for piece in model.cut(waveform, own)
    ]
    owners = [(owner, place) for owner, own in enumerate(chunks) for place in range(len(own))]
    ordered = [OrderedChunks(own) for own in chunks]
    for index, outputs in _run_in_batches(model, pieces):
        owner, place = owners[index]
        for frames in ordered[owner].add(place, outputs):
            on_frames(owner, frames)


def compute_stretch(
    model: FrameModel, waveform: torch.Tensor, chunks: Sequence[Chunk]
) -> torch.Tensor:
    """Return the outputs for the frames that some chunks in a row keep, shape (frames, values).

    `waveform`, of shape (samples,) at 16 kHz, is the whole. Those of all chunks are what
    `compute_frames` returns. Raises `NonFiniteOutputError`.
    """
    return join_chunks(chunks, compute_chunks(model, waveform, chunks))


def compute_chunks(
    model: FrameModel, waveform: torch.Tensor, chunks: Sequence[Chunk]
) -> list[torch.Tensor]:
    """Return the outputs for all frames of chunks, also for those that others keep.

    Raises `NonFiniteOutputError`.
    """
    outputs = dict(_run_in_batches(model, model.cut(waveform, chunks)))
    for each in outputs.values():
        check_finite(each)
    return [outputs[place] for place in range(len(chunks))]


def _run_in_batches(
    model: FrameModel, pieces: Sequence[Piece]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the outputs for each piece, on the CPU, with its index."""
    encoder = model.encoder
    lengths = [len(piece.values) * encoder.input_stride for piece in pieces]
    for batch in plan_batches(lengths, encoder.device, encoder.pads):
        check_time()
        found = model.run([pieces[index].load() for index in batch])
        for index, outputs in zip(batch, found, strict=True):
            yield index, outputs.cpu()
