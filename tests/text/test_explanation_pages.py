"""What a page and a chart of an explanation show."""

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from speechtext.text.explanation.explanation import Explanation, View
from speechtext.text.explanation.pages import (
    AGAINST,
    CHARTED_CHARACTERS,
    CHARTED_TARGETS,
    CHARTED_WORDS,
    FOR,
    draw_chart,
    draw_page,
    page_facts,
    shade,
    shade_text,
    strongest,
)
from speechtext.text.explanation.targets import (
    Explained,
    ExplanationParameters,
    Target,
    WordSpan,
)
from speechtext.text.tokens import Tokens, Window
from support.pictures import drawn_figure

WINDOW = Window(Tokens([1], [0], [0], [0], [(0, 1)]), [0], 0)
TEXT = "no, good cats"
SPANS = [
    WordSpan("no", 0, 0, 2, [0]),
    WordSpan("good", 0, 4, 8, [1, 2]),
    WordSpan("cats", 0, 9, 13, [3]),
]


def make_target(name: str = "yes", **keys: Any) -> Target:
    return Target(WINDOW, 0, 0, name, [True], **keys)


def explain(importances: list[float], target: Target | None = None, **keys: Any) -> Explained:
    return Explained(target or make_target(), importances, keys.pop("delta", 0.0125), 20, **keys)


def figure_of(view: View, monkeypatch: pytest.MonkeyPatch) -> Figure:
    return drawn_figure(lambda: draw_chart(view), monkeypatch)


def colour(parts: tuple[int, int, int]) -> Any:
    return pytest.approx([part / 255 for part in parts])


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (1.0, "rgba(230, 159, 0, 0.750)"),
        (0.5, "rgba(230, 159, 0, 0.375)"),
        (-0.5, "rgba(0, 114, 178, 0.375)"),
        (-2.0, "rgba(0, 114, 178, 0.750)"),
        (0.0, "rgba(0, 114, 178, 0.000)"),
    ],
)
def test_words_are_shaded_by_how_much_they_count(weight: float, shown: str) -> None:
    assert shade(weight) == shown


def test_strongest_word_is_never_nothing() -> None:
    assert strongest(explain([0.5, -2.0, 1.0])) == 2.0
    assert strongest(explain([0.0, 0.0])) == 1.0
    assert strongest(explain([])) == 1.0


def test_facts_of_a_page_are_in_their_order() -> None:
    about = {"side": "start", "prediction": "no", "word": "cats"}
    told = page_facts(
        explain([], make_target(probability=0.12345, about=about), metrics={"sufficiency": 0.25})
    )
    assert told == [
        ("of", "cats"),
        ("its", "start"),
        ("probability", "12.3%"),
        ("where the model predicts", "no"),
        ("delta", "0.013"),
        ("steps", "20"),
        ("sufficiency", "0.250"),
    ]
    assert page_facts(explain([])) == [("delta", "0.013"), ("steps", "20")]


@pytest.mark.parametrize(
    ("number", "spans", "parts"),
    [
        (
            0,
            SPANS,
            [
                *[("", None), ("no", 1.0), (", ", None), ("good", 2.0), (" ", None)],
                *[("cats", 3.0), ("", None)],
            ],
        ),
        (1, SPANS, [(TEXT, None)]),
        # Spans that overlap, as those of pieces do: each character once.
        (
            0,
            [WordSpan("no, ", 0, 0, 4, [0]), *SPANS[:1], WordSpan(", good", 0, 2, 8, [1])],
            [("", None), ("no, ", 1.0), ("", None), ("good", 3.0), (" cats", None)],
        ),
        # A token that has no characters.
        (0, [WordSpan("", 0, 0, 0, [0])], [(TEXT, None)]),
    ],
)
def test_text_is_cut_into_words_and_what_is_between(
    number: int, spans: list[WordSpan], parts: list[tuple[str, float | None]]
) -> None:
    weights = [float(place) for place in range(1, len(spans) + 1)]
    found = shade_text(TEXT, number, spans, weights)
    assert found == parts
    assert "".join(text for text, _ in found) == TEXT


def test_page_has_each_word_in_its_shade() -> None:
    page = draw_page(View([TEXT], SPANS, [explain([1.0, -0.5, 0.25])], "occlusion", False))
    assert '<h2 dir="auto">yes</h2>' in page
    assert "the stronger, the more; occlusion" in page
    for shown, text in zip((1.0, -0.5, 0.25), ("no", "good", "cats"), strict=True):
        style = f'title="{shown:+.3f}"\n style="background: {shade(shown)}">{text}</span>'
        assert style in page


def test_page_of_a_continuation_has_a_row_for_each_token() -> None:
    rows = [
        explain([0.5, -1.0, 0.25], make_target(about={"text": name})) for name in (" and", " so")
    ]
    page = draw_page(View([TEXT], SPANS, rows, "layer_integrated_gradients", True))
    assert page.count("<tr>") == 3
    for name in ("no", "good", "cats", " and", " so", "delta"):
        assert f"<th>{name}</th>" in page
    assert page.count(f'<td style="background: {shade(-1.0)}">-1.00</td>') == 2
    assert page.count(f'<td style="background: {shade(0.5)}">0.50</td>') == 2
    assert "layer integrated gradients" in page


def test_bars_are_the_words_that_count_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the text on top; for it in one colour, against it in the other."""
    count = CHARTED_WORDS + 5
    spans = [WordSpan(f"w{place}", 0, 3 * place, 3 * place + 2, [place]) for place in range(count)]
    values = [(place + 1) * (-1.0) ** place for place in range(count)]
    figure = figure_of(
        View(["x"], spans, [explain(values, make_target("good"))], "occlusion", False), monkeypatch
    )
    (axis,) = figure.axes
    bars: Any = axis.patches
    kept = list(range(5, count))[::-1]
    assert [bar.get_width() for bar in bars] == [values[place] for place in kept]
    assert [label.get_text() for label in axis.get_yticklabels()] == [f"w{each}" for each in kept]
    for bar, place in zip(bars, kept, strict=True):
        assert list(to_rgb(bar.get_facecolor())) == colour(FOR if values[place] > 0 else AGAINST)
    assert axis.get_title(loc="left") == "good: delta 0.013, steps 20"
    # Where importances change their sign.
    (zero,) = axis.lines
    assert np.array_equal(zero.get_xdata(), [0, 0])


def test_chart_has_room_for_each_target(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [explain([1.0, -1.0, 0.5], make_target(f"t{number}")) for number in range(8)]
    figure = figure_of(View([TEXT], SPANS, every, "occlusion", False), monkeypatch)
    titles = [axis.get_title(loc="left").partition(":")[0] for axis in figure.axes]
    assert titles == [f"t{number}" for number in range(CHARTED_TARGETS)]
    assert figure.get_size_inches().tolist() == pytest.approx([7.0, CHARTED_TARGETS * 1.78])


def test_chart_of_a_continuation_is_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        explain([0.5, -1.0, 0.25], make_target(about={"text": "and"})),
        explain([0.0, 0.0, 4.0], make_target(about={"text": "so"})),
    ]
    figure = figure_of(View([TEXT], SPANS, rows, "occlusion", True), monkeypatch)
    axis, bar = figure.axes
    (image,) = axis.images
    assert np.array_equal(np.asarray(image.get_array()), [[0.5, -1.0, 0.25], [0.0, 0.0, 1.0]])
    assert image.get_clim() == (-1, 1)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["no", "good", "cats"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["and", "so"]
    assert bar.get_ylabel() == "share of the row's largest"
    assert figure.get_size_inches().tolist() == pytest.approx([3.35, 2.2])


LONG = "Llanfairpwll" * 2000


@pytest.mark.parametrize("as_matrix", [False, True])
def test_words_and_names_of_any_length_leave_room_in_a_chart(
    as_matrix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word may be as long as a text; and of several lines, as tokens of white space are."""
    cut = LONG[: CHARTED_CHARACTERS - 1] + "…"
    spans = [SPANS[0]._replace(word=LONG), SPANS[1]._replace(word="a\n\n b"), SPANS[2]]
    about = {"text": LONG, "word": LONG, "prediction": LONG}
    rows = [explain([0.5, -1.0, 0.25], make_target(LONG, about=about)), explain([1.0, 2.0, 3.0])]
    if as_matrix:
        rows[1] = explain([1.0, 2.0, 3.0], make_target(about={"text": "so"}))
    figure = figure_of(View([TEXT], spans, rows, "occlusion", as_matrix), monkeypatch)
    axis = figure.axes[0]
    words = axis.get_xticklabels() if as_matrix else axis.get_yticklabels()[::-1]
    assert [label.get_text() for label in words] == [cut, "a b", "cats"]
    if as_matrix:
        assert [label.get_text() for label in axis.get_yticklabels()] == [cut, "so"]
    else:
        lines = axis.get_title(loc="left").split("\n")
        title = f"{cut}: of {cut}, where the model predicts {cut}, delta 0.013, steps 20"
        assert " ".join(lines) == title
        assert max(map(len, lines)) <= 50
    assert axis.get_position().width > 0.3
    assert axis.get_position().height > 0.1


def test_chart_of_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of(View([TEXT], SPANS, [], "occlusion", False), monkeypatch)
    assert [each.get_text() for each in figure.texts] == ["nothing to explain"]
    assert figure.axes == []


@pytest.mark.parametrize("granularity", ["token", "word"])
def test_answer_is_told_in_tokens_or_words_and_shown_in_words(granularity: Any) -> None:
    tokens = [WordSpan(name, 0, 0, 2, [place]) for place, name in enumerate("abcd")]
    every = [explain([1.0, 2.0, 0.5, -4.0], delta=-0.5), explain([0.0, 1.0, 1.0, 0.0], delta=0.25)]
    parameters = ExplanationParameters(granularity=granularity, method="occlusion")
    explanation = Explanation(
        [TEXT], tokens, SPANS, every, parameters, True,
        lambda given: {"importances": [each.importances for each in given]},
    )  # fmt: skip
    in_words = [[1.0, 2.5, -4.0], [0.0, 2.0, 0.0]]
    content = explanation.content()
    if granularity == "token":
        assert content["words"] == list("abcd")
        assert content["importances"] == [each.importances for each in every]
    else:
        assert content["words"] == ["no", "good", "cats"]
        assert content["importances"] == in_words
    assert content["method"] == "occlusion"
    view = explanation.view()
    assert view.texts == [TEXT]
    assert view.spans == SPANS
    assert [each.importances for each in view.explained] == in_words
    assert (view.method, view.as_matrix) == ("occlusion", True)
    assert (explanation.n_steps, explanation.largest_delta) == (40, 0.5)
