"""Wav2Vec2 CTC: from waveforms to emissions, and from emissions to label indices.

Padding a batch of waveforms changes the answers of checkpoints whose first group norm averages
over time (`feat_extract_norm: group`, as base-960h). So the convolutional front end runs on each
waveform by itself, and only the transformer runs on the padded batch, under a mask: exact for
every checkpoint. A long waveform is cut into chunks that overlap, whose emissions become one.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2ForCTC

from speechtext.allowance import check_time
from speechtext.batching import plan_batches
from speechtext.finite import check_finite
from speechtext.measurements import note_padding
from speechtext.speech.transcripts import Token

SAMPLE_RATE_HZ = 16_000
# That of `Wav2Vec2FeatureExtractor`.
NORMALIZATION_EPSILON = 1e-7
# Gets the number of a waveform and its next frames of logits, shape (frames, labels).
FrameListener = Callable[[int, torch.Tensor], None]


class FrameGrid(NamedTuple):
    """Where the front end's frames lie: frame `i` sees `field` samples from `i * stride` on."""

    field: int
    stride: int

    def count_frames(self, samples: int) -> int:
        """Return how many frames a waveform has; a shorter one than a frame is extended to one."""
        return max(0, samples - self.field) // self.stride + 1


class Chunk(NamedTuple):
    """A stretch of a waveform, as frames: what the model sees and, within it, what is kept."""

    start: int
    stop: int
    first_kept: int
    last_kept: int


class Normalization(NamedTuple):
    """What gives a waveform zero mean and unit variance, whatever part of it is at hand."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def apply(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the waveform, or a part of it, normalised."""
        return waveform.sub(self.mean).div_(self.deviation)


def measure_normalization(
    waveform: torch.Tensor, epsilon: float = NORMALIZATION_EPSILON
) -> Normalization:
    """Return how `Wav2Vec2FeatureExtractor` normalises a waveform of shape (samples,).

    Measured on the whole and applied to chunks: a long recording has no room for a copy.
    """
    variance, mean = torch.var_mean(waveform, correction=0)
    return Normalization(mean, (variance + epsilon).sqrt())


class ChunkedWaveform(NamedTuple):
    """The samples of a chunk, a view of the whole waveform, and how that one is normalised."""

    waveform: torch.Tensor
    norm: Normalization | None

    def normalize(self) -> torch.Tensor:
        """Return the samples as the model takes them."""
        return self.waveform if self.norm is None else self.norm.apply(self.waveform)


def frame_grid(model: Wav2Vec2ForCTC) -> FrameGrid:
    """Return the grid that the convolutions of a model lay over a waveform."""
    field, stride = 1, 1
    for kernel, step in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return FrameGrid(field, stride)


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


def plan_chunks(grid: FrameGrid, samples: int, chunk_s: float, stride_s: float) -> list[Chunk]:
    """Return the chunks of a waveform, of `chunk_s` with `stride_s` of context on each side."""
    length, stride = (int(each * SAMPLE_RATE_HZ / grid.stride) for each in (chunk_s, stride_s))
    return cut_chunks(grid.count_frames(samples), max(1, length), stride)


def compute_stretch(
    model: Wav2Vec2ForCTC, waveform: torch.Tensor, chunks: Sequence[Chunk], epsilon: float | None
) -> torch.Tensor:
    """Return the logits that some chunks in a row keep, shape (frames, labels), float32.

    `waveform`, of shape (samples,) at 16 kHz, is the whole, which is normalised where there is an
    `epsilon`. Those of all chunks are what `compute_emissions` returns. Raises
    `NonFiniteOutputError`.
    """
    joined = JoinedChunks(chunks)
    inputs = _cut_chunks(waveform, frame_grid(model), chunks, epsilon)
    for place, logits in _run_in_batches(model, inputs):
        list(joined.add(place, logits))
    return joined.whole()


def cut_waveform(waveform: torch.Tensor, grid: FrameGrid, chunk: Chunk) -> torch.Tensor:
    """Return the samples of a chunk; the last one has those that fill no frame, too."""
    if chunk.stop == grid.count_frames(len(waveform)):
        return waveform[chunk.start * grid.stride :]
    return waveform[chunk.start * grid.stride : (chunk.stop - 1) * grid.stride + grid.field]


def compute_emissions(
    model: Wav2Vec2ForCTC,
    waveforms: Sequence[torch.Tensor],
    chunk_s: float,
    stride_s: float,
    epsilon: float | None = None,
    on_frames: FrameListener | None = None,
) -> list[torch.Tensor]:
    """Return the logits of each waveform, shape (frames, labels), float32, on the CPU.

    `waveforms` have shape (samples,) at 16 kHz, and are normalised where there is an `epsilon`.
    Those longer than `chunk_s` are cut into chunks of that length with `stride_s` of context on
    each side. An emission is what the waveform gets alone, whatever its neighbours are. `on_frames`
    gets the frames of each waveform in order, as soon as they are there. Raises
    `NonFiniteOutputError`.
    """
    grid = frame_grid(model)
    chunks = [plan_chunks(grid, len(waveform), chunk_s, stride_s) for waveform in waveforms]
    inputs = [
        each
        for waveform, own in zip(waveforms, chunks, strict=True)
        for each in _cut_chunks(waveform, grid, own, epsilon)
    ]
    owners = [(owner, place) for owner, own in enumerate(chunks) for place in range(len(own))]
    emissions = [JoinedChunks(own) for own in chunks]
    for index, logits in _run_in_batches(model, inputs):
        owner, place = owners[index]
        for frames in emissions[owner].add(place, logits):
            if on_frames:
                on_frames(owner, frames)
    return [each.whole() for each in emissions]


def _cut_chunks(
    waveform: torch.Tensor, grid: FrameGrid, chunks: Sequence[Chunk], epsilon: float | None
) -> list[ChunkedWaveform]:
    norm = None if epsilon is None else measure_normalization(waveform, epsilon)
    return [ChunkedWaveform(cut_waveform(waveform, grid, chunk), norm) for chunk in chunks]


def _run_in_batches(
    model: Wav2Vec2ForCTC, inputs: Sequence[ChunkedWaveform]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the logits of each of the waveforms' chunks, on the CPU, with its index."""
    for batch in plan_batches([len(each.waveform) for each in inputs], model.device):
        check_time()
        # Views until here: only those at hand are copied.
        waveforms = [inputs[index].normalize() for index in batch]
        for index, each in zip(batch, run_batch(model, waveforms), strict=True):
            yield index, each.cpu()


class JoinedChunks:
    """The logits of a waveform, from those of its chunks, whatever the order they come in."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self._early: dict[int, torch.Tensor] = {}
        self._joined: list[torch.Tensor] = []

    def add(self, place: int, logits: torch.Tensor) -> Iterator[torch.Tensor]:
        """Take those of a chunk; yield the frames that follow on those that there were.

        Raises `NonFiniteOutputError`.
        """
        chunk = self._chunks[place]
        self._early[place] = logits[chunk.first_kept - chunk.start : chunk.last_kept - chunk.start]
        while (frames := self._early.pop(len(self._joined), None)) is not None:
            check_finite(frames)
            self._joined.append(frames)
            yield frames

    def whole(self) -> torch.Tensor:
        """Return those of the whole waveform, shape (frames, labels)."""
        return torch.cat(self._joined)


def run_batch(model: Wav2Vec2ForCTC, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of a few whole, normalised waveforms, shape (frames, labels), float32."""
    features = [extract_features(model, waveform) for waveform in waveforms]
    frames = torch.tensor([len(feature) for feature in features], device=model.device)
    padded = pad_sequence(features, batch_first=True)
    note_padding(padded.shape[0] * padded.shape[1], sum(map(len, features)))
    # Boolean on purpose: the encoder inverts the mask with ~, which is silently wrong for integers.
    mask = torch.arange(padded.shape[1], device=model.device) < frames[:, None]
    hidden, _ = model.wav2vec2.feature_projection(padded)
    # Where nothing is padded, attention is faster without a mask.
    hidden = model.wav2vec2.encoder(hidden, mask if len(waveforms) > 1 else None)[0]
    logits = model.lm_head(hidden).float()
    return [row[:count] for row, count in zip(logits, frames.tolist(), strict=True)]


def extract_features(model: Wav2Vec2ForCTC, waveform: torch.Tensor) -> torch.Tensor:
    """Return the convolutional features, shape (frames, channels), of one normalised waveform.

    A waveform of shape (samples,) shorter than one frame is extended with silence to one frame.
    """
    missing = frame_grid(model).field - waveform.numel()
    waveform = torch.nn.functional.pad(waveform, (0, max(0, missing)))
    features: torch.Tensor = model.wav2vec2.feature_extractor(
        waveform[None].to(model.device, model.dtype)
    )[0].T
    return features


def find_best_path(probabilities: torch.Tensor, blank: int) -> list[Token]:
    """Return the tokens of the best path, in order; `probabilities` have shape (frames, labels).

    Repeats are merged first, then blanks dropped, so that a blank keeps a double letter apart.
    Graves et al. 2006, "Connectionist Temporal Classification", section 3.2.
    """
    highest, path = probabilities.max(dim=-1)
    labels, counts = torch.unique_consecutive(path, return_counts=True)
    stops = counts.cumsum(dim=0)
    sums = torch.nn.functional.pad(highest.double().cumsum(dim=0), (1, 0))
    means = (sums[stops] - sums[stops - counts]) / counts
    columns = (each.tolist() for each in (labels, stops - counts, stops, means))
    return [Token(*row) for row in zip(*columns, strict=True) if row[0] != blank]


def group_words(tokens: Sequence[Token], delimiter: int | None) -> list[list[Token]]:
    """Return the tokens of each word; a model without a `delimiter` has but one word."""
    groups = itertools.groupby(tokens, lambda token: token.label == delimiter)
    return [list(word) for is_delimiter, word in groups if not is_delimiter]
