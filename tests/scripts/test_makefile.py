"""What the Makefile does with the environment, with jobs at a time, and when it cleans up."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from repository import ROOT

# The targets that take variables.
SERVED = ("serve", "archive", "transcribe", "annotate")
TARGETS = (*SERVED, "benchmark", "fuzz", "mutants", "soak", "gpu", "gpu-wheels")
# Those that are meant to come from the environment, too, and the others.
OF_ENVIRONMENT = {"PYTHON", "TORCH_INDEX", "GPU_PYTHON", "WHEELS_PYTHON"}
NAMES = re.findall(r"^([A-Z_]+) \??=$", (ROOT / "Makefile").read_text(), re.MULTILINE)
VARIABLES = [name for name in NAMES if name not in OF_ENVIRONMENT]
# Takes a while, and writes down what it was asked for.
BOOTSTRAP = 'sleep 0.3; echo "$@" >> asked; touch "$1/installed"\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, and what its rules start from."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("uv.lock", "pyproject.toml", ".venv/.ready", "scripts/bootstrap.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "scripts" / "bootstrap.sh").write_text(BOOTSTRAP)
    return tmp_path


def make(workspace: Path, *arguments: str, **environment: str) -> str:
    """Run make as from a terminal; return what it prints."""
    # MAKE... are what the make of `make test` leaves for others.
    dropped = ("MFLAGS", *VARIABLES)
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name not in dropped
    }
    result = subprocess.run(
        ["make", *arguments],
        cwd=workspace,
        env={**own, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_come_from_the_command_line_and_not_from_the_environment(
    name: str, workspace: Path
) -> None:
    targets = ("-n", *TARGETS)
    shown = make(workspace, *targets)
    assert make(workspace, *targets, **{name: "laptop"}) == shown
    assert make(workspace, *targets, f"{name}=laptop") != shown


def test_extras_stay_beside_each_other_with_several_jobs(workspace: Path) -> None:
    make(workspace, "-j4", "lm", "openvino", "telemetry")
    *_, last = (workspace / "asked").read_text().splitlines()
    assert set(last.split()) >= {"lm", "openvino", "telemetry"}


def test_clean_removes_what_was_built_and_keeps_what_made_the_environment(workspace: Path) -> None:
    kept = {"model_store/.gitkeep", "model_store/notes/mine.txt", ".build/uv/bin/uv"}
    built = {
        ".build/site/index.html",
        ".build/.hidden",
        ".build/sbom.cdx.json",
        "model_store/a.mar",
        "model_store/b.tar.gz",
        "model_store/.a.json",
        "model_store/c/MAR-INF/MANIFEST.json",
        "model_store/c/weights",
        "model_store/.archive-x1/d/MAR-INF/MANIFEST.json",
        "model_store/.archive-x2/d.mar",
    }
    for name in kept | built:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).touch()
    make(workspace, "clean")
    there = [path for each in (".build", "model_store") for path in (workspace / each).rglob("*")]
    assert {str(path.relative_to(workspace)) for path in there if path.is_file()} == kept
    folders = {path.name for path in (workspace / "model_store").iterdir() if path.is_dir()}
    assert folders == {"notes"}
    make(workspace, "clean")


def test_clean_of_a_fresh_clone_has_nothing_to_remove(workspace: Path) -> None:
    make(workspace, "clean")
    assert not (workspace / ".build").exists()
