"""What a CTC model saw: its emission as an alignment of tokens and words, with alternatives."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ctc_recognition import Token
from transcripts import Transcript, describe_word, write_json

# What fits in a picture and in a person's patience.
MAX_EXPLAINED_S = 60.0
BEAM_WIDTH = 16
ALTERNATIVES = 5
# Labels that no frame gives this probability are left out of the picture.
SHOWN_PROBABILITY = 0.02
INCHES_PER_S, MIN_INCHES, MAX_INCHES = 2.5, 9.0, 60.0


@dataclass(frozen=True)
class Alignment:
    """A recording as the model saw it.

    `waveform` has shape (samples,), `probabilities` (frames, labels); `labels` are their names and
    `words` the tokens of each word of the transcript.
    """

    waveform: torch.Tensor
    probabilities: torch.Tensor
    labels: Sequence[str]
    blank: int
    delimiter: int | None
    frame_s: float
    transcript: Transcript
    words: Sequence[Sequence[Token]]


class Hypothesis(NamedTuple):
    """Labels, and the probability that the emission means them."""

    labels: tuple[int, ...]
    probability: float


def search_prefixes(
    probabilities: torch.Tensor, blank: int, beam_width: int = BEAM_WIDTH
) -> list[Hypothesis]:
    """Return the most probable label sequences of an emission, shape (frames, labels), best first.

    Each one's probability is the sum over its alignments. Hannun et al. 2014, "First-Pass Large
    Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", algorithm 1.
    """
    # Of each prefix: the probability that it ends in a blank, and in its last label.
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for frame in probabilities.tolist():
        likely = sorted(range(len(frame)), key=frame.__getitem__, reverse=True)[:beam_width]
        beam = _extend(beam, frame, {*likely} - {blank}, blank)
        best = sorted(beam, key=lambda prefix: sum(beam[prefix]), reverse=True)[:beam_width]
        beam = {prefix: beam[prefix] for prefix in best}
    return [Hypothesis(prefix, sum(ends)) for prefix, ends in beam.items() if sum(ends) > 0]


def _extend(
    beam: dict[tuple[int, ...], tuple[float, float]],
    frame: Sequence[float],
    labels: set[int],
    blank: int,
) -> dict[tuple[int, ...], tuple[float, float]]:
    in_blank: dict[tuple[int, ...], float] = defaultdict(float)
    in_label: dict[tuple[int, ...], float] = defaultdict(float)
    for prefix, (blank_end, label_end) in beam.items():
        in_blank[prefix] += (blank_end + label_end) * frame[blank]
        for label in labels:
            repeats = bool(prefix) and label == prefix[-1]
            if repeats:
                in_label[prefix] += label_end * frame[label]
            # A label follows itself only across a blank.
            before = blank_end if repeats else blank_end + label_end
            in_label[(*prefix, label)] += before * frame[label]
    return {prefix: (in_blank[prefix], in_label[prefix]) for prefix in {*in_blank, *in_label}}


def describe_alignment(alignment: Alignment) -> dict[str, Any]:
    """Return the text, tokens with frames, times and probability, and words with alternatives."""
    words = [
        {**describe_word(word), "alternatives": _find_alternatives(alignment, tokens)}
        for word, tokens in zip(alignment.transcript.words, alignment.words, strict=True)
    ]
    tokens = [_describe_token(alignment, token) for word in alignment.words for token in word]
    return {
        **write_json(alignment.transcript),
        "words": words,
        "frame_duration": alignment.frame_s,
        "tokens": tokens,
    }


def _describe_token(alignment: Alignment, token: Token) -> dict[str, Any]:
    return {
        "token": alignment.labels[token.label],
        "start_frame": token.start,
        "end_frame": token.stop,
        "start": round(token.start * alignment.frame_s, 3),
        "end": round(token.stop * alignment.frame_s, 3),
        "probability": round(token.confidence, 4),
    }


def _find_alternatives(alignment: Alignment, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Return what the word's frames may mean, the probabilities as a share of what was found."""
    frames = alignment.probabilities[tokens[0].start : tokens[-1].stop].clone()
    if alignment.delimiter is not None:
        frames[:, alignment.delimiter] = 0
    hypotheses = search_prefixes(frames, alignment.blank)
    total = math.fsum(each.probability for each in hypotheses)
    return [
        {
            "word": "".join(alignment.labels[label] for label in each.labels),
            "probability": round(each.probability / total, 4),
        }
        for each in hypotheses[:ALTERNATIVES]
    ]


def draw_alignment(alignment: Alignment) -> bytes:
    """Return a PNG picture: the waveform, the emission as a heat map by label, and the words."""
    # Here, because it takes half a second that no other request needs.
    from matplotlib.figure import Figure

    duration_s = alignment.transcript.duration_s
    width = min(MAX_INCHES, max(MIN_INCHES, duration_s * INCHES_PER_S))
    figure = Figure(figsize=(width, 6.5), layout="constrained")
    axes = figure.subplots(3, sharex=True, height_ratios=(2, 5, 1.3))
    _draw_waveform(axes[0], alignment)
    _draw_emission(figure, axes[1], alignment)
    _draw_words(axes[2], alignment)
    axes[0].set_xlim(0, max(duration_s, alignment.frame_s))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _draw_waveform(axis: Any, alignment: Alignment) -> None:
    samples = len(alignment.waveform)
    times_s = torch.arange(samples) * (alignment.transcript.duration_s / samples)
    axis.plot(times_s.numpy(), alignment.waveform.numpy(), linewidth=0.4, color="#35618f")
    axis.set_ylabel("waveform")
    axis.set_yticks([])


def _draw_emission(figure: Any, axis: Any, alignment: Alignment) -> None:
    peaks = alignment.probabilities.max(dim=0).values
    shown = (peaks >= SHOWN_PROBABILITY).nonzero()[:, 0].tolist()
    frames = len(alignment.probabilities)
    image = axis.imshow(
        alignment.probabilities[:, shown].T.numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(0, frames * alignment.frame_s, len(shown) - 0.5, -0.5),
    )
    axis.set_yticks(range(len(shown)), [_shown_label(alignment, label) for label in shown])
    axis.set_ylabel("label")
    figure.colorbar(image, ax=axis, label="probability", pad=0.01)


def _shown_label(alignment: Alignment, label: int) -> str:
    names = {alignment.blank: "blank", alignment.delimiter: "space"}
    return names.get(label, alignment.labels[label])


def _draw_words(axis: Any, alignment: Alignment) -> None:
    for index, word in enumerate(alignment.transcript.words):
        axis.axvspan(word.start_s, word.end_s, color="#d9e4ef")
        middle_s = (word.start_s + word.end_s) / 2
        # Dollar signs would be read as formulas.
        text = f"{word.text}\n{word.confidence:.0%}".replace("$", r"\$")
        # At two heights, so that short neighbours do not cover each other.
        height = 0.7 if index % 2 else 0.3
        axis.text(middle_s, height, text, ha="center", va="center", fontsize=7)
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("words")
    axis.set_xlabel("seconds")


EXPLANATIONS: dict[str, Callable[[Alignment], Any]] = {
    "application/json": describe_alignment,
    "image/png": draw_alignment,
}
