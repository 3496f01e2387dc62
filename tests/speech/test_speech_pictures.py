"""What pictures of recordings show: waveforms, emissions, words and stretches, where they are."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from speechtext.speech.alignment_picture import draw_alignment
from speechtext.speech.alignments import Alignment
from speechtext.speech.attribution import Stretch
from speechtext.speech.stretch_picture import NEGATIVE, POSITIVE, draw_stretches
from speechtext.speech.transcripts import Transcript, Word
from support.pictures import drawn_figure

WORDS = [Word("on", 0.2, 0.6, 0.876), Word("the", 0.7, 0.9, 0.5), Word("kitchen", 1.0, 1.8, 1.0)]
WAVEFORM = torch.linspace(-1, 1, 32_000)
# Of four labels, one that no frame gives a probability worth showing.
EMISSION = torch.tensor([[0.9, 0.02, 0.019, 0.0], [0.1, 0.5, 0.0, 0.4]] * 50)
LABELS = ["-", "o", "x", "n"]


def draw(monkeypatch: pytest.MonkeyPatch, duration_s: float = 2.0) -> Figure:
    transcript = Transcript("on the kitchen", duration_s, WORDS)
    alignment = Alignment(WAVEFORM, EMISSION, LABELS, 0.02, transcript, [], lambda _: [])
    return drawn_figure(lambda: draw_alignment(alignment), monkeypatch)


def test_alignment_has_the_waveform_over_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw(monkeypatch)
    wave = figure.axes[0]
    (line,) = wave.lines
    assert np.allclose(line.get_ydata(), WAVEFORM)
    assert np.allclose(line.get_xdata(), np.arange(32_000) / 16_000)
    assert wave.get_xlim() == (0, 2.0)
    assert wave.get_ylabel() == "waveform"
    assert list(wave.get_yticks()) == []


@pytest.mark.parametrize(("duration_s", "inches"), [(2.0, 9.0), (10.0, 25.0), (100.0, 60.0)])
def test_alignment_is_as_wide_as_it_is_long(
    duration_s: float, inches: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw(monkeypatch, duration_s).get_size_inches().tolist() == [inches, 6.5]


def test_alignment_shows_the_labels_that_frames_give_a_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = draw(monkeypatch)
    axis, bar = figure.axes[1], figure.axes[3]
    (image,) = axis.images
    assert np.array_equal(np.asarray(image.get_array()), EMISSION[:, [0, 1, 3]].T)
    assert list(image.get_extent()) == [0, 2.0, 2.5, -0.5]
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["-", "o", "n"]
    assert (axis.get_ylabel(), bar.get_ylabel()) == ("label", "probability")


def test_alignment_has_each_word_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    axis: Any = draw(monkeypatch).axes[2]
    assert [each.get_text() for each in axis.texts] == ["on\n88%", "the\n50%", "kitchen\n100%"]
    places = [each.get_position() for each in axis.texts]
    assert [place for place, _ in places] == pytest.approx([0.4, 0.8, 1.4])
    assert [height for _, height in places] == [0.3, 0.7, 0.3]
    spans = [(each.get_x(), each.get_x() + each.get_width()) for each in axis.patches]
    assert spans == [pytest.approx((word.start_s, word.end_s)) for word in WORDS]
    assert axis.get_ylim() == (0, 1)
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("words", "seconds")


def test_stretches_are_bars_and_shades(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the colour of their sign, the strongest the darkest."""
    stretches = [Stretch(0.0, 0.5, -1.0), Stretch(0.5, 1.25, 4.0), Stretch(1.25, 2.0, 0.0)]
    figure = drawn_figure(
        lambda: draw_stretches(WAVEFORM, stretches, "lights", "logit", WORDS[:1]), monkeypatch
    )
    axes: list[Any] = list(figure.axes)
    wave, bars = axes
    (line,) = wave.lines
    assert np.allclose(line.get_ydata(), WAVEFORM)
    assert np.allclose(line.get_xdata(), np.arange(32_000) / 16_000)
    assert [each.get_alpha() for each in wave.patches] == pytest.approx([0.1, 0.4, 0.0])
    for drawn in (wave.patches, bars.patches):
        assert [each.get_x() for each in drawn] == pytest.approx([0.0, 0.5, 1.25])
        assert [each.get_width() for each in drawn] == pytest.approx([0.5, 0.75, 0.75])
        colours = [to_hex(each.get_facecolor()) for each in drawn]
        assert colours == [NEGATIVE, POSITIVE, NEGATIVE]
    assert [each.get_height() for each in bars.patches] == [-1.0, 4.0, 0.0]
    assert bars.get_xlim() == (0.0, 2.0)
    assert wave.get_title() == "what lights depends on"
    assert (bars.get_ylabel(), bars.get_xlabel()) == ("change of the logit", "seconds")
    assert wave.get_ylabel() == "waveform"
    (word,) = wave.texts
    assert (word.get_text(), word.get_position()) == ("on", (pytest.approx(0.4), 0.97))


def test_stretches_that_add_nothing_have_no_shade(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = [Stretch(0.0, 2.0, 0.0)]
    figure = drawn_figure(lambda: draw_stretches(WAVEFORM, nothing, "x", "logit"), monkeypatch)
    wave: Any = figure.axes[0]
    assert [each.get_alpha() for each in wave.patches] == [0.0]
    assert list(wave.texts) == []
