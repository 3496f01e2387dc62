"""What tests of pictures share."""

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.figure import Figure


def drawn_figure(draw: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Return what is drawn, as it is written; it is a PNG."""
    figures: list[Figure] = []
    write = Figure.savefig

    def note(figure: Figure, *arguments: Any, **keys: Any) -> None:
        figures.append(figure)
        write(figure, *arguments, **keys)

    monkeypatch.setattr(Figure, "savefig", note)
    assert draw().startswith(b"\x89PNG")
    (figure,) = figures
    return figure
