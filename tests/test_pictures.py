"""Pictures of what people said, in any script: drawn, and nothing of it is told."""

import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.alignment_picture import draw_alignment
from speechtext.speech.alignments import Alignment
from speechtext.speech.transcripts import Transcript, Word
from speechtext.text.explanation.explanation import View
from speechtext.text.explanation.pages import draw_chart
from speechtext.text.explanation.targets import Explained, Target, WordSpan
from speechtext.text.tokens import Tokens, Window
from support.common import SCRIPTS, traces

WINDOW = Window(Tokens([1], [0], [0], [0], [(0, 1)]), [0], 0)
ODD = (
    "$x^2$",
    "$\\frac{$",
    "\\$ \\alpha",
    "e\u0301\u0302",
    "a\x00\x1b\x7f",
    "\u202ea\u2066",
    "\ue000",
)


def draw_speech(text: str) -> bytes:
    words = [Word(text, 0.1, 0.5, 0.9), Word("second", 0.6, 0.9, 0.5)]
    return draw_alignment(
        Alignment(
            torch.zeros(16_000),
            torch.full((50, 2), 0.5),
            [text, "a"],
            0.02,
            Transcript(text, 1.0, words),
            [],
            lambda tokens: [],
        )
    )


def draw_view(text: str, as_matrix: bool) -> bytes:
    target = Target(WINDOW, 0, 0, text, [True], about={"text": text})
    spans = [WordSpan(text, 0, 0, 1, [0]), WordSpan("second", 0, 2, 8, [1])]
    explained = [Explained(target, [0.7, -0.2], 0.01, 50)]
    return draw_chart(View([text], spans, explained, "occlusion", as_matrix))


def draw_bars(text: str) -> bytes:
    return draw_view(text, as_matrix=False)


def draw_matrix(text: str) -> bytes:
    return draw_view(text, as_matrix=True)


PICTURES = pytest.mark.parametrize("draw", [draw_speech, draw_bars, draw_matrix])


@PICTURES
@pytest.mark.parametrize("script", SCRIPTS)
def test_picture_shows_any_script_and_tells_nobody(
    draw: Callable[[str], bytes],
    script: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = SCRIPTS[script]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = draw(text)
    said = capfd.readouterr()
    told = "\n".join([caplog.text, said.out, said.err, *(str(each.message) for each in caught)])
    assert [trace for trace in traces(text) if trace in told] == []
    assert [str(each.message) for each in caught] == []
    assert picture not in {draw(""), draw(text[:-1])}


@PICTURES
def test_picture_shows_what_could_be_a_formula_or_a_control(draw: Callable[[str], bytes]) -> None:
    pictures = {draw(text) for text in ODD}
    assert len(pictures) == len(ODD)


def test_picture_can_be_drawn_of_any_text() -> None:
    """Warnings are errors here."""

    @settings(max_examples=30, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
    def check(text: str) -> None:
        assert draw_bars(text).startswith(b"\x89PNG")

    check()
