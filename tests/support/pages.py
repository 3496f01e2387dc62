"""The README and the manual, and the examples in them."""

import re
from pathlib import Path

from repository import ROOT

SERVED_AT = "http://127.0.0.1:8080"
MANAGED_AT = "http://127.0.0.1:8081"
GATEWAY_AT = "http://127.0.0.1:8000"
LEFT_OUT = "..."
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def prints(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed: white space aside, "..." for what is left out."""
    parts = [re.escape(part) for part in "".join(shown.split()).split(LEFT_OUT)]
    return re.fullmatch(".*".join(parts), "".join(printed.split())) is not None


def rows(page: str) -> list[str]:
    """Return the first cell of each row of a page's tables."""
    return re.findall(r"^\| (.*?) \|", PAGES[page], re.MULTILINE)


def link_workspace(folder: Path) -> None:
    """Put into a folder what examples name: recordings, texts and demo models."""
    for name in ("examples", "demo_models"):
        (folder / name).symlink_to(ROOT / name)
