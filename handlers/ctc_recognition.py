"""Wav2Vec2 CTC: from waveforms to emissions, and from emissions to label indices.

Padding a batch of waveforms changes the answers of checkpoints whose first group norm averages
over time (`feat_extract_norm: group`, as base-960h). So the convolutional front end runs on each
waveform by itself, and only the transformer runs on the padded batch, under a mask: exact for
every checkpoint. A long waveform is cut into windows that overlap, whose emissions become one.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC, Wav2Vec2Processor

from device_io import STRICT, DtypeName
from measurements import note_padding
from transcripts import Token

# A processor computes one waveform at a time fastest; a GPU is filled by about this much audio.
GPU_BATCH_SAMPLES = 640 * 16_000
# That of `Wav2Vec2FeatureExtractor`.
NORMALIZATION_EPSILON = 1e-7


@dataclass(frozen=True, config=STRICT)
class Wav2Vec2Settings:
    """The `handler` keys of a Wav2Vec2 archive's YAML."""

    dtype: DtypeName = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    threads: int | None = None
    target_lang: str | None = None
    decoder: Literal["greedy", "beam"] = "greedy"
    beam_width: Annotated[int, KeyOptions(ge=1)] = 50
    lm: str | None = None
    lexicon: str | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    hotwords: list[str] | None = None
    max_audio_seconds: float = 3600.0
    chunk_length_s: Annotated[float, KeyOptions(gt=0)] = 20.0
    stride_length_s: Annotated[float, KeyOptions(ge=0)] = 2.0

    def __post_init__(self) -> None:
        if self.chunk_length_s <= 2 * self.stride_length_s:
            raise ValueError("expected chunk_length_s to be more than twice stride_length_s")


class FrameGrid(NamedTuple):
    """Where the front end's frames lie: frame `i` sees `field` samples from `i * stride` on."""

    field: int
    stride: int

    def count_frames(self, samples: int) -> int:
        """Return how many frames a waveform has; a shorter one than a frame is extended to one."""
        return max(0, samples - self.field) // self.stride + 1


class Window(NamedTuple):
    """A piece of a waveform, as frames: what the model sees and, within it, what is kept of it."""

    start: int
    stop: int
    first_kept: int
    last_kept: int


def check_architecture(model: Wav2Vec2ForCTC) -> None:
    """Raise `ValueError` for what `run_batch` leaves out: convolutions after the encoder."""
    if model.config.add_adapter:
        raise ValueError(
            "config.json: expected add_adapter to be false for CTC speech recognition."
        )


def choose_language(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, language: str) -> None:
    """Load a language's adapter, head and labels, as checkpoints of MMS have them for many.

    Raises `ValueError` where the checkpoint's folder has none for the language. Pratap et al. 2023,
    "Scaling Speech Technology to 1,000+ Languages".
    """
    try:
        processor.tokenizer.set_target_lang(language)
        model.load_adapter(language, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"handler.target_lang: {error}") from error


def frame_grid(model: Wav2Vec2ForCTC) -> FrameGrid:
    """Return the grid that the convolutions of a model lay over a waveform."""
    field, stride = 1, 1
    for kernel, step in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return FrameGrid(field, stride)


def cut_windows(frames: int, length: int, stride: int) -> list[Window]:
    """Cut `frames` into windows of at most `length`, with `stride` frames of context on each side.

    The kept frames of the windows are all frames, each once and in order. The last window is as
    long as the others and ends with the waveform.
    """
    windows, kept = [], 0
    while kept < frames:
        start = max(0, min(kept - stride, frames - length))
        stop = min(start + length, frames)
        last_kept = frames if stop == frames else stop - stride
        windows.append(Window(start, stop, kept, last_kept))
        kept = last_kept
    return windows


def cut_waveform(waveform: torch.Tensor, grid: FrameGrid, window: Window) -> torch.Tensor:
    """Return the samples of a window; the last one has those that fill no frame, too."""
    if window.stop == grid.count_frames(len(waveform)):
        return waveform[window.start * grid.stride :]
    return waveform[window.start * grid.stride : (window.stop - 1) * grid.stride + grid.field]


def normalize_in_place(
    waveform: torch.Tensor, epsilon: float = NORMALIZATION_EPSILON
) -> torch.Tensor:
    """Give a waveform of shape (samples,) zero mean and unit variance, and return it.

    As `Wav2Vec2FeatureExtractor` does, without the copies that a long recording has no room for.
    """
    variance, mean = torch.var_mean(waveform, correction=0)
    return waveform.sub_(mean).div_((variance + epsilon).sqrt())


def plan_batches(samples: Sequence[int], device: torch.device) -> list[list[int]]:
    """Return which of the waveforms, by index, to run together: those of like length, on a GPU."""
    if device.type == "cpu":
        return [[index] for index in range(len(samples))]
    batches: list[list[int]] = []
    for index in sorted(range(len(samples)), key=lambda index: -samples[index]):
        # The first of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * samples[batches[-1][0]] <= GPU_BATCH_SAMPLES:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def compute_emissions(
    model: Wav2Vec2ForCTC, waveforms: Sequence[torch.Tensor], chunk_s: float, stride_s: float
) -> list[torch.Tensor]:
    """Return the logits of each waveform, shape (frames, labels), float32, on the CPU.

    `waveforms` are normalised, of shape (samples,), at 16 kHz. Those longer than `chunk_s` are cut
    into windows of that length with `stride_s` of context on each side. An emission is what the
    waveform gets alone, whatever its neighbours are.
    """
    grid = frame_grid(model)
    length, stride = (int(seconds * 16_000 / grid.stride) for seconds in (chunk_s, stride_s))
    windows = [
        (row, window)
        for row, waveform in enumerate(waveforms)
        for window in cut_windows(grid.count_frames(len(waveform)), max(1, length), stride)
    ]
    pieces = [cut_waveform(waveforms[row], grid, window) for row, window in windows]
    logits = _run_in_batches(model, pieces)
    kept: list[list[torch.Tensor]] = [[] for _ in waveforms]
    for (row, window), piece in zip(windows, logits, strict=True):
        kept[row].append(piece[window.first_kept - window.start : window.last_kept - window.start])
    return [torch.cat(parts) for parts in kept]


def _run_in_batches(model: Wav2Vec2ForCTC, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    logits = [torch.empty(0)] * len(pieces)
    for batch in plan_batches([len(piece) for piece in pieces], model.device):
        for index, piece in zip(batch, run_batch(model, [pieces[i] for i in batch]), strict=True):
            logits[index] = piece.cpu()
    return logits


def run_batch(model: Wav2Vec2ForCTC, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of a few whole waveforms, shape (frames, labels), float32."""
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


def name_labels(tokenizer: Wav2Vec2CTCTokenizer, count: int) -> list[str]:
    """Return what people call the labels of an emission."""
    names = [str(tokenizer.convert_ids_to_tokens(label)) for label in range(count)]
    if tokenizer.word_delimiter_token_id is not None:
        names[tokenizer.word_delimiter_token_id] = "space"
    names[tokenizer.pad_token_id] = "blank"
    return names
