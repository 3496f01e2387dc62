"""Greedy decoding of a batch without leaving the GPU: what `decoder.greedy` finds, step by step.

A step there is a hundred small kernels, which take longer to launch than to run, and a copy back.
Here a batch's bookkeeping is tensors of fixed shape, so that a step is recorded once as a CUDA
graph and replayed, and the host looks only now and then whether the batch is done. Bataev et al.
2024, "Label-Looping: Highly Efficient Decoding for Transducers"; Galvez et al. 2024, "Speed of
Light Exact Greedy Decoding for RNN-T Speech Recognition Models on GPU".
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses

# Frames that a step looks at while blanks come.
FRAMES_AHEAD = 8
# Steps from one look at whether the batch is done to the next.
STEPS_PER_LOOK = 8
# Tokens of a row that are kept on the GPU, until the host takes them with one of its looks.
ROOM = 8 * STEPS_PER_LOOK
# Rows, and frames of each, that a graph is recorded for at least, fewer rows where frames are many:
# a step of fewer takes a GPU as long, and live sessions, now of one, now of fifty, share a graph.
LEAST = 64
# Frames of all graphs together, of which the oldest is dropped: 4 KB of the GPU each.
MOST_FRAMES = 128 * 1024
# Runs before a graph is recorded: libraries make their plans in them.
WARM_UPS = 3
# A token, its frame, and its log-probability.
Emission = tuple[int, int, float]


class GpuGreedy:
    """The greedy search of a decoder for batches of any shape, from any thread."""

    def __init__(self, decoder: Any, most_here: int, least: int = LEAST) -> None:
        self._decoder = decoder
        self._most_here = most_here
        self._least = least
        self._batches: dict[tuple[int, int], _Batch] = {}
        # A graph writes where it was recorded to.
        self._lock = threading.Lock()

    def __call__(
        self, encodings: torch.Tensor, frames: Sequence[int], before: Sequence[Hypotheses]
    ) -> list[Hypotheses]:
        """Return what `before`, one hypothesis a row, become with encodings (batch, frames, dim).

        A row has `frames` of its own.
        """
        with self._lock:
            batch = self._find(len(frames), encodings.shape[1], before[0])
            batch.load(encodings, frames, before)
            return batch.read(batch.run(len(before)), before)

    def _find(self, rows: int, frames: int, example: Hypotheses) -> "_Batch":
        """Return the tensors for a batch: of few shapes, so that few graphs are recorded."""
        length = _round_up(max(frames, self._least))
        shape = _round_up(max(rows, self._least**2 // length)), length
        batch = self._batches.pop(shape, None)
        if batch is None:
            batch = _Batch(self._decoder, *shape, self._most_here, example)
        self._batches[shape] = batch
        while sum(map(math.prod, self._batches)) > MOST_FRAMES and len(self._batches) > 1:
            del self._batches[next(iter(self._batches))]
        return batch


def _round_up(count: int) -> int:
    """Return the next power of two."""
    return 1 << max(0, count - 1).bit_length()


class _Batch:
    """The tensors of batches of one shape, and the step that moves each row on."""

    def __init__(
        self, decoder: Any, rows: int, frames: int, most_here: int, example: Hypotheses
    ) -> None:
        self._decoder = decoder
        self._most_here = most_here
        device, dim = example.predictions.device, example.predictions.shape[1]
        layers, both, _, width = example.states.shape

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._encodings = zeros(rows, frames, dim, dtype=torch.float32)
        self._predictions = zeros(rows, dim, dtype=torch.float32)
        self._states = zeros(layers, both, rows, width, dtype=torch.float32)
        self._rows, self._ahead = torch.arange(rows, device=device), zeros(1, FRAMES_AHEAD)
        self._ahead.copy_(torch.arange(FRAMES_AHEAD))
        # For each row: its frame, its end, its tokens at that frame, and how many in all.
        self._at, self._ends, self._here, self._count = zeros(4, rows)
        self._scores = zeros(rows, dtype=torch.float64)
        # With one place more: a row that emits nothing writes there.
        self._tokens, self._frames = zeros(2, rows, ROOM + 1)
        self._values = zeros(rows, ROOM + 1, dtype=torch.float32)
        self._replay = self._record() if device.type == "cuda" else self._step

    def load(
        self, encodings: torch.Tensor, frames: Sequence[int], before: Sequence[Hypotheses]
    ) -> None:
        """Take a batch that is to be decoded; rows that it lacks have no frames."""
        own = len(frames)
        self._encodings[:own, : encodings.shape[1]] = encodings
        self._predictions[:own] = torch.cat([each.predictions for each in before])
        self._states[:, :, :own] = torch.cat([each.states for each in before], dim=2)
        self._ends.zero_()
        self._ends[:own] = torch.tensor(frames)
        self._scores[:own] = torch.tensor([each.scores[0] for each in before], dtype=torch.float64)
        for counted in (self._at, self._here, self._count):
            counted.zero_()

    def run(self, rows: int) -> list[list[Emission]]:
        """Move the rows on to their ends; return what each of the first `rows` emits."""
        found: list[list[Emission]] = [[] for _ in range(rows)]
        while True:
            left = torch.stack([(self._at < self._ends).sum(), self._count.max()])
            unfinished, most = left.tolist()
            if not unfinished or most + STEPS_PER_LOOK > ROOM:
                self._take(found, most)
            if not unfinished:
                return found
            for _ in range(STEPS_PER_LOOK):
                self._replay()

    def _take(self, found: list[list[Emission]], most: int) -> None:
        """Add what was emitted since this was done last, at most so much of a row."""
        kept = (self._tokens, self._frames, self._values)
        columns = zip(*(each[: len(found), :most].tolist() for each in kept), strict=True)
        for own, count, row in zip(found, self._count[: len(found)].tolist(), columns, strict=True):
            own += zip(*(each[:count] for each in row), strict=True)
        self._count.zero_()

    def read(
        self, found: Sequence[Sequence[Emission]], before: Sequence[Hypotheses]
    ) -> list[Hypotheses]:
        """Return what the hypotheses have become, with the tokens that were found."""
        ends, scores = self._ends.tolist(), self._scores.tolist()
        return [
            Hypotheses(
                [old.tokens[0] + [token for token, _, _ in found[row]]],
                [old.frames[0] + [old.frame + frame for _, frame, _ in found[row]]],
                [old.probabilities[0] + [math.exp(value) for _, _, value in found[row]]],
                [scores[row]],
                old.kept,
                old.frame + ends[row],
                # Copies, as the next batch is written over these.
                self._predictions[row : row + 1].clone(),
                self._states[:, :, row : row + 1].clone(),
            )
            for row, old in enumerate(before)
        ]

    def _record(self) -> Callable[[], None]:
        """Return what replays the step, recorded as a CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may load a model meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph.replay

    def _step(self) -> None:
        """Take the next frames of each row, up to its first token, and predict behind that."""
        seen = self._at[:, None] + self._ahead
        own = seen < self._ends[:, None]
        values, labels = self._look(seen)
        is_token = (labels != self._decoder.blank) & own
        emits, place = is_token.any(dim=1), is_token.int().argmax(dim=1)
        moved = torch.where(emits, place, own.sum(dim=1))
        taken = own & (self._ahead < (moved + emits.long())[:, None])
        self._scores += torch.where(taken, values.double(), 0.0).sum(dim=1)
        self._here.mul_(moved == 0)
        self._at += moved
        token, value = labels[self._rows, place], values[self._rows, place]
        self._write(emits, token, value)
        self._predict(emits, token)

    def _look(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best label of each frame, shape (rows, frames ahead), and its value."""
        last = self._encodings.shape[1] - 1
        joint = self._decoder.joiner(
            self._encodings[self._rows[:, None], seen.clamp(max=last)].flatten(0, 1),
            self._predictions.repeat_interleave(FRAMES_AHEAD, dim=0),
        )
        values, labels = joint.max(dim=1)
        return values.view(-1, FRAMES_AHEAD), labels.view(-1, FRAMES_AHEAD)

    def _write(self, emits: torch.Tensor, token: torch.Tensor, value: torch.Tensor) -> None:
        """Add the tokens; a row moves on where its frame has as many as it may."""
        target = torch.where(emits, self._count, ROOM)
        self._tokens[self._rows, target] = token
        self._frames[self._rows, target] = self._at
        self._values[self._rows, target] = value
        self._count += emits
        self._here += emits
        full = self._here == self._most_here
        self._at += full
        self._here.mul_(~full)

    def _predict(self, emits: torch.Tensor, token: torch.Tensor) -> None:
        predictions, states = self._decoder.predictor(token, self._states)
        self._predictions.copy_(torch.where(emits[:, None], predictions, self._predictions))
        self._states.copy_(torch.where(emits[:, None], states, self._states))
