"""Results as people read them."""

from collections.abc import Iterable, Sequence
from typing import TextIO


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO | None = None
) -> None:
    """Print a Markdown table, to a file where one is given."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True, file=file)
