"""Explanations to look at: a page with the text shaded by importance, and a chart of its words."""

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from speechtext.pictures import text_style
from speechtext.text.explanation.explanation import View
from speechtext.text.explanation.targets import Explained, WordSpan

# From the palette of Okabe and Ito, whose colours people of any colour vision tell apart.
FOR, AGAINST = (230, 159, 0), (0, 114, 178)
# The strongest shade, under which black text is still easy to read.
STRONGEST = 0.75
CHARTED_WORDS, CHARTED_TARGETS = 15, 6
# Characters of a word or a name in a chart. One of 20,000, which may be a single token, takes 11 s
# to draw, and from 1,000 on there is no room for its bar.
CHARTED_CHARACTERS = 40
# Those of a word and the title behind it, in a line of bars.
LINE_CHARACTERS = 90
# Those that a matrix has room for, and the inches of each further one.
MATRIX_CHARACTERS, CHARACTER_INCHES = 10, 0.08


# Beside this file, wherever it was unpacked.
TEMPLATES = Path(__file__).parent


def draw_page(view: View) -> str:
    """Return a page that needs nothing else and runs nothing; what users wrote is escaped."""
    return str(
        _template().render(
            view=view,
            shade=shade,
            strongest=strongest,
            facts=page_facts,
            shaded=lambda each: [
                shade_text(text, index, view.spans, each.importances)
                for index, text in enumerate(view.texts)
            ],
        )
    )


@cache
def _template() -> Any:
    # Here, not above: predictions need none of it.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(autoescape=True, trim_blocks=True, loader=FileSystemLoader(TEMPLATES))
    return environment.get_template("page.html.j2")


def shade(weight: float) -> str:
    """Return the colour of a word that speaks for its target (1) or against it (-1)."""
    red, green, blue = FOR if weight > 0 else AGAINST
    return f"rgba({red}, {green}, {blue}, {min(1.0, abs(weight)) * STRONGEST:.3f})"


def strongest(explained: Explained) -> float:
    """Return the largest importance, whatever its sign; never 0."""
    return max(map(abs, explained.importances), default=0.0) or 1.0


def page_facts(explained: Explained) -> list[tuple[str, str]]:
    """Return what a page tells beside the text."""
    facts = []
    if explained.target.probability is not None:
        facts.append(("probability", f"{explained.target.probability:.1%}"))
    if "side" in explained.target.about:
        facts.insert(0, ("its", str(explained.target.about["side"])))
    if "prediction" in explained.target.about:
        facts.append(("where the model predicts", str(explained.target.about["prediction"])))
    if "word" in explained.target.about:
        facts.insert(0, ("of", str(explained.target.about["word"])))
    facts += [("delta", f"{explained.delta:.2g}"), ("steps", str(explained.n_steps))]
    return facts + [(name, f"{value:.3f}") for name, value in explained.metrics.items()]


def shade_text(
    text: str, number: int, spans: Sequence[WordSpan], importances: Sequence[float]
) -> list[tuple[str, float | None]]:
    """Return one of the texts in stretches: words, with their importance, and what is between."""
    parts: list[tuple[str, float | None]] = []
    written = 0
    for span, importance in zip(spans, importances, strict=True):
        if span.text != number or span.end <= written:
            continue
        start = max(span.start, written)
        parts += [(text[written:start], None), (text[start : span.end], importance)]
        written = span.end
    return [*parts, (text[written:], None)]


def draw_chart(view: View) -> bytes:
    """Return a PNG: bars of the words that count most, or the matrix of a continuation."""
    # Here, not above: predictions need none of it.
    from matplotlib.figure import Figure

    shown = view.explained[:CHARTED_TARGETS]
    if view.as_matrix:
        shown = view.explained
        size = _matrix_size(*_matrix_names(view))
    else:
        size = (7.0, max(1.5, len(shown) * (1 + 0.26 * min(CHARTED_WORDS, len(view.spans)))))
    figure = Figure(figsize=size, layout="constrained")
    if not shown:
        figure.text(0.5, 0.5, "nothing to explain", ha="center")
    elif view.as_matrix:
        _draw_matrix(figure, view)
    else:
        for axis, each in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
            _draw_bars(axis, view.spans, each)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def shorten(text: str) -> str:
    """Return a word or a name as a chart has room for it, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= CHARTED_CHARACTERS else f"{line[: CHARTED_CHARACTERS - 1]}…"


def _draw_bars(axis: Any, spans: Sequence[WordSpan], explained: Explained) -> None:
    order = sorted(range(len(spans)), key=lambda each: -abs(explained.importances[each]))
    chosen = sorted(order[:CHARTED_WORDS], reverse=True)
    values = [explained.importances[each] for each in chosen]
    colours = [[part / 255 for part in (FOR if value > 0 else AGAINST)] for value in values]
    axis.barh(range(len(chosen)), values, color=colours)
    words = [shorten(spans[each].word) for each in chosen]
    axis.set_yticks(range(len(words)), words, **text_style())
    axis.axvline(0, color="#444", linewidth=0.8)
    title = _write_title(explained, LINE_CHARACTERS - max(map(len, words), default=0))
    axis.set_title(title, fontsize=9, loc="left", **text_style())


def _write_title(explained: Explained, room: int) -> str:
    """Return what is told of a target, in lines of so many characters."""
    facts = ", ".join(f"{name} {shorten(value)}" for name, value in page_facts(explained))
    return textwrap.fill(f"{shorten(explained.target.name)}: {facts}", room, break_on_hyphens=False)


def _matrix_names(view: View) -> tuple[list[str], list[str]]:
    """Return the names of a matrix's columns, words of the text, and of its rows, new tokens."""
    added = [shorten(each.target.about["text"]) for each in view.explained]
    return [shorten(each.word) for each in view.spans], added


def _matrix_size(words: Sequence[str], added: Sequence[str]) -> tuple[float, float]:
    """Return the width and the height of a matrix, in inches."""
    beside, below = (
        CHARACTER_INCHES * max(0, max(map(len, names), default=0) - MATRIX_CHARACTERS)
        for names in (added, words)
    )
    return 2 + 0.45 * len(words) + beside, 1.5 + 0.35 * len(added) + below


def _draw_matrix(figure: Any, view: View) -> None:
    axis = figure.subplots()
    rows = [[value / strongest(each) for value in each.importances] for each in view.explained]
    image = axis.imshow(rows, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    words, added = _matrix_names(view)
    slanted = {"rotation": 60, "rotation_mode": "anchor", "ha": "right"}
    axis.set_xticks(range(len(words)), words, **slanted, **text_style())
    axis.set_yticks(range(len(added)), added, **text_style())
    figure.colorbar(image, ax=axis, label="share of the row's largest")
