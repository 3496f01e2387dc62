"""A picture of which stretches of a recording something depends on."""

import io
from collections.abc import Sequence
from typing import Any

import torch

from speechtext.pictures import text_style
from speechtext.speech.attribution import Stretch
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.transcripts import Word

POSITIVE, NEGATIVE = "#b2561d", "#35618f"


def draw_stretches(
    waveform: torch.Tensor,
    stretches: Sequence[Stretch],
    target: str,
    number: str,
    words: Sequence[Word] = (),
) -> bytes:
    """Return a PNG picture: the waveform, what each stretch adds to a number, and the words."""
    # Here, because it takes half a second that no other request needs.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    wave, bars = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    times_s = torch.arange(len(waveform)) / SAMPLE_RATE_HZ
    wave.plot(times_s.numpy(), waveform.numpy(), linewidth=0.4, color=NEGATIVE)
    wave.set_ylabel("waveform")
    wave.set_yticks([])
    wave.set_title(f"what {target} depends on", **text_style())
    _draw_scores(wave, bars, stretches)
    for word in words:
        wave.text(
            *((word.start_s + word.end_s) / 2, 0.97, word.text),
            transform=wave.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=8,
            **text_style(),
        )
    bars.set_ylabel(f"change of the {number}")
    bars.set_xlabel("seconds")
    bars.set_xlim(stretches[0].start_s, stretches[-1].end_s)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _draw_scores(wave: Any, bars: Any, stretches: Sequence[Stretch]) -> None:
    most = max(abs(each.score) for each in stretches) or 1.0
    for each in stretches:
        color = POSITIVE if each.score > 0 else NEGATIVE
        strength = abs(each.score) / most
        wave.axvspan(each.start_s, each.end_s, color=color, alpha=0.4 * strength, linewidth=0)
        width_s = each.end_s - each.start_s
        bars.bar(each.start_s, each.score, width_s, align="edge", color=color)
    bars.axhline(0, color="#404040", linewidth=0.6)
