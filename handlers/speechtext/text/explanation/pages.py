"""Explanations to look at: a page with the text shaded by importance, and a chart of its words."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from speechtext.text.explanation.targets import Explained, Piece

# Of the palette of Okabe and Ito, which people of any colour vision tell apart.
FOR, AGAINST = (230, 159, 0), (0, 114, 178)
# The strongest shade, under which black text is still easy to read.
STRONGEST = 0.75
CHARTED_WORDS, CHARTED_TARGETS = 15, 6


@dataclass(frozen=True)
class View:
    """What there is to look at: texts, their words, and what each adds to each target.

    `as_matrix` says that the targets follow one another, as the tokens of a continuation do.
    """

    texts: Sequence[str]
    pieces: Sequence[Piece]
    explained: Sequence[Explained]
    method: str
    as_matrix: bool


PAGE = """<!doctype html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Explanation</title>
<style>
body { font: 16px/1.7 system-ui, sans-serif; margin: 1.5rem auto; max-width: 46rem;
  padding: 0 1rem; color: #111; background: #fff; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; }
p.text { margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
p.facts, .legend { color: #444; font-size: .9rem; margin: 0; }
.word { border-radius: .2rem; padding: .1rem 0; color: #111; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .45rem; text-align: right; font-weight: normal; white-space: pre; }
th { background: #f3f3f3; text-align: left; }
</style>
</head>
<body>
<h1>What the answer hangs on</h1>
<p class="legend"><span class="word" style="background: {{ shade(1) }}">speaks for it</span>
<span class="word" style="background: {{ shade(-1) }}">speaks against it</span>
&ndash; the stronger, the more; {{ view.method.replace("_", " ") }}</p>
{% if not view.explained %}<p class="text" dir="auto">{{ view.texts[0] }}</p>
<p>There is nothing to explain: the model finds no entity.</p>{% endif %}
{% if view.as_matrix and view.explained %}
<h2>What each token of the prompt adds to each token that follows</h2>
<div class="scroll"><table>
<tr><th></th>{% for piece in view.pieces %}<th>{{ piece.word }}</th>{% endfor %}<th>delta</th></tr>
{% for each in view.explained %}<tr><th>{{ each.target.about.text }}</th>
{% for value in each.importances %}<td style="background: {{ shade(value / strongest(each)) }}">
{{- "%.2f"|format(value) }}</td>{% endfor %}<td>{{ "%.2g"|format(each.delta) }}</td></tr>
{% endfor %}</table></div>
{% elif not view.as_matrix %}{% for each in view.explained %}
<h2 dir="auto">{{ each.target.name }}</h2>
<p class="facts">{% for name, value in facts(each) %}{{ name }} {{ value }}
{%- if not loop.last %}, {% endif %}{% endfor %}</p>
{% for parts in shaded(each) %}<p class="text" dir="auto">
{%- for text, value in parts %}{% if value is none %}{{ text }}{% else -%}
<span class="word" title="{{ "%+.3f"|format(value) }}"
 style="background: {{ shade(value / strongest(each)) }}">
{{- text }}</span>{% endif %}{% endfor %}</p>
{% endfor %}{% endfor %}{% endif %}
</body>
</html>
"""


def draw_page(view: View) -> str:
    """Return a page that needs nothing else and runs nothing; what users wrote is escaped."""
    return str(
        _template().render(
            view=view,
            shade=shade,
            strongest=strongest,
            facts=page_facts,
            shaded=lambda each: [
                shade_text(text, index, view.pieces, each.importances)
                for index, text in enumerate(view.texts)
            ],
        )
    )


@cache
def _template() -> Any:
    # Here, not above: predictions need none of it.
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True).from_string(PAGE)


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
    text: str, number: int, pieces: Sequence[Piece], importances: Sequence[float]
) -> list[tuple[str, float | None]]:
    """Return one of the texts in stretches: words, with their importance, and what is between."""
    parts: list[tuple[str, float | None]] = []
    written = 0
    for piece, importance in zip(pieces, importances, strict=True):
        if piece.text != number or piece.end <= written:
            continue
        start = max(piece.start, written)
        parts += [(text[written:start], None), (text[start : piece.end], importance)]
        written = piece.end
    return [*parts, (text[written:], None)]


def draw_chart(view: View) -> bytes:
    """Return a PNG: bars of the words that count most, or the matrix of a continuation."""
    # Here, not above: predictions need none of it.
    from matplotlib.figure import Figure

    shown = view.explained[:CHARTED_TARGETS]
    if view.as_matrix:
        shown = view.explained
        size = (2 + 0.45 * len(view.pieces), 1.5 + 0.35 * len(shown))
    else:
        size = (7.0, max(1.5, len(shown) * (1 + 0.26 * min(CHARTED_WORDS, len(view.pieces)))))
    figure = Figure(figsize=size, layout="constrained")
    if not shown:
        figure.text(0.5, 0.5, "nothing to explain", ha="center")
    elif view.as_matrix:
        _draw_matrix(figure, view)
    else:
        for axis, each in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
            _draw_bars(axis, view.pieces, each)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _draw_bars(axis: Any, pieces: Sequence[Piece], explained: Explained) -> None:
    order = sorted(range(len(pieces)), key=lambda each: -abs(explained.importances[each]))
    chosen = sorted(order[:CHARTED_WORDS], reverse=True)
    values = [explained.importances[each] for each in chosen]
    colours = [[part / 255 for part in (FOR if value > 0 else AGAINST)] for value in values]
    axis.barh(range(len(chosen)), values, color=colours)
    axis.set_yticks(range(len(chosen)), [plain(pieces[each].word) for each in chosen])
    axis.axvline(0, color="#444", linewidth=0.8)
    facts = ", ".join(f"{name} {value}" for name, value in page_facts(explained))
    axis.set_title(f"{plain(explained.target.name)}: {plain(facts)}", fontsize=9, loc="left")


def _draw_matrix(figure: Any, view: View) -> None:
    axis = figure.subplots()
    rows = [[value / strongest(each) for value in each.importances] for each in view.explained]
    image = axis.imshow(rows, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    axis.set_xticks(
        range(len(view.pieces)), [plain(each.word) for each in view.pieces], rotation=60
    )
    axis.set_yticks(range(len(rows)), [plain(each.target.about["text"]) for each in view.explained])
    figure.colorbar(image, ax=axis, label="share of the row's largest")


def plain(text: str) -> str:
    """Return a text for a picture: dollar signs would be read as formulas."""
    return text.replace("$", r"\$")


PICTURES: dict[str, Callable[[View], Any]] = {
    "text/html": draw_page,
    "image/png": draw_chart,
}
