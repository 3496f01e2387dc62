"""A picture of what a speech model saw: the waveform, the emission and the words."""

import io
from typing import Any

import torch

from speechtext.pictures import text_style
from speechtext.speech.alignments import Alignment

# Labels that no frame gives this probability are left out.
SHOWN_PROBABILITY = 0.02
INCHES_PER_S, MIN_INCHES, MAX_INCHES = 2.5, 9.0, 60.0


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
    labels = [alignment.labels[label] for label in shown]
    axis.set_yticks(range(len(shown)), labels, **text_style())
    axis.set_ylabel("label")
    figure.colorbar(image, ax=axis, label="probability", pad=0.01)


def _draw_words(axis: Any, alignment: Alignment) -> None:
    for index, word in enumerate(alignment.transcript.words):
        axis.axvspan(word.start_s, word.end_s, color="#d9e4ef")
        middle_s = (word.start_s + word.end_s) / 2
        text = f"{word.text}\n{word.confidence:.0%}"
        # At two heights, so that short neighbours do not cover each other.
        height = 0.7 if index % 2 else 0.3
        axis.text(middle_s, height, text, ha="center", va="center", fontsize=7, **text_style())
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("words")
    axis.set_xlabel("seconds")
