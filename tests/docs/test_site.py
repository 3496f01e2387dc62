"""The manual as a site: it is built without a warning, and needs nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

# What a browser loads by itself, unlike the target of a link.
LOADED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]*)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    pytest.importorskip("mkdocs", reason="make docs installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_of_the_manual_is_on_the_site(site: Path) -> None:
    pages = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        address = page.with_suffix(".html").as_posix()
        assert (site / address).exists()
        assert f'href="{address}"' in navigation, address


def test_reference_has_what_docstrings_say(site: Path) -> None:
    page = (site / "api" / "speech.html").read_text(encoding="utf-8")
    assert 'id="speechtext.speech.ctc.recognizer.Wav2Vec2Recognizer.transcribe"' in page
    assert "waveforms of shape (samples,) at 16 kHz" in page


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page
