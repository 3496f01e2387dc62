"""Every command says what it does and what it takes."""

import os
import re
import subprocess
import sys

import pytest

from repository import ROOT

COMMANDS = [
    ["scripts/build_archives.py"],
    ["scripts/serve.py"],
    ["scripts/doctor.py"],
    ["scripts/live_client.py"],
    ["-m", "benchmarks"],
    ["-m", "demo_models.train"],
    ["-m", "demo_models.score"],
    ["scripts/sbom.py"],
    ["-m", "trials.fuzz"],
    ["-m", "trials.deep_fuzz"],
    ["-m", "trials.mutants"],
    ["-m", "trials.chaos"],
    ["-m", "trials.soak"],
    ["-m", "trials.front_door"],
    ["-m", "gateway"],
    ["-m", "cluster"],
    ["-m", "bulk"],
    ["-m", "trials.bulk"],
    ["-m", "trials.ray_nodes"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'handlers'}:{ROOT / 'scripts'}"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_help_is_there(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: ")
    assert "-h, --help" in result.stdout


def test_these_are_all_the_commands_of_the_makefile() -> None:
    called = re.findall(
        r"\$\(BIN\)/python (scripts/\S+\.py|-m \S+)", (ROOT / "Makefile").read_text()
    )
    named = {" ".join(command) for command in COMMANDS} | {"-m pytest", "-m mkdocs"}
    assert set(called) <= named
    assert {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")} <= named | {
        "scripts/records.py",
        "scripts/repository.py",
        "scripts/tables.py",
    }


def test_commands_for_people_need_no_python_path() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ("build_archives.py", "live_client.py"):
        result = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / command), "--help"],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
