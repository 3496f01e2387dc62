"""Links of the README and the manual lead somewhere."""

import re

import pytest

from repository import ROOT
from support.pages import PAGES

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Folders of the repository, and what a user or the manual's example calls a file of their own.
PATH = re.compile(
    r"`((?:scripts|handlers|tests|docs|model_configs|demo_models|examples)/[\w./-]+)`"
)
EXAMPLES_OF_OWN = ("NAME", "support_calls", "fill_mask")
WEB = ("https://", "http://")


def anchors(page: str) -> list[str]:
    """Return the anchors of a page's headings, as GitHub and the site name them."""
    headings = HEADING.findall(FENCE.sub("", PAGES[page]))
    return [re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    for link in LINK.findall(FENCE.sub("", PAGES[page])):
        if link.startswith(WEB):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_headings_of_a_page_differ(page: str) -> None:
    # Where two are alike, GitHub and the site name the second anchor each in its own way.
    found = anchors(page)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    for path in PATH.findall(PAGES[page]):
        if not any(name in path for name in EXAMPLES_OF_OWN):
            assert (ROOT / path).exists(), f"{page}: {path}"
