"""What a speech model saw: its emission as an alignment of tokens and words, with alternatives."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from transcripts import Token, Transcript, describe_word, write_json

# What fits in a picture and in a person's patience.
MAX_EXPLAINED_S = 60.0
# Labels that no frame gives this probability are left out of the picture.
SHOWN_PROBABILITY = 0.02
INCHES_PER_S, MIN_INCHES, MAX_INCHES = 2.5, 9.0, 60.0


# What a word may be instead, with the probability of each, the most probable first.
Alternatives = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Alignment:
    """A recording as the model saw it.

    `waveform` has shape (samples,), `probabilities` (frames, labels); `labels` are their names,
    `words` the tokens of each word of the transcript, and `find_alternatives` tells what a word's
    tokens may be instead.
    """

    waveform: torch.Tensor
    probabilities: torch.Tensor
    labels: Sequence[str]
    frame_s: float
    transcript: Transcript
    words: Sequence[Sequence[Token]]
    find_alternatives: Callable[[Sequence[Token]], Alternatives]


def describe_alignment(alignment: Alignment) -> dict[str, Any]:
    """Return the text, tokens with frames, times and probability, and words with alternatives."""
    words = [
        {
            **describe_word(word),
            "alternatives": [
                {"word": text, "probability": round(probability, 4)}
                for text, probability in alignment.find_alternatives(tokens)
            ],
        }
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
    axis.set_yticks(range(len(shown)), [alignment.labels[label] for label in shown])
    axis.set_ylabel("label")
    figure.colorbar(image, ax=axis, label="probability", pad=0.01)


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
