"""Break the library in thousands of small ways, and count how many of them its tests notice.

mutmut (https://mutmut.readthedocs.io) makes the mutants, and runs for each the tests that reach the
function it is in. All happens in a copy of the repository, `.build/mutants`; the survivors' names
are printed, and `mutmut show NAME` there shows each.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from repository import ROOT
from tables import print_table

COPY = ROOT / ".build" / "mutants"
LIBRARY = "handlers/speechtext"
# Tests of the library itself; those of handlers and servers take too long for each mutant.
TESTS = (
    "tests/text",
    "tests/speech",
    "tests/cpu",
    "tests/test_allowance.py",
    "tests/test_finite.py",
    "tests/test_host_memory.py",
    "tests/test_pictures.py",
)
LEFT_BEHIND = (".git", ".venv", ".build", ".hypothesis", ".*_cache", "__pycache__", "model_store")
# Of the copy: mutmut copies tests by itself.
NOT_COPIED = ("handlers", "mutants", "tests")
# mutmut's exit codes of mutants that no test runs, and of those that all tests pass with.
UNTESTED, SURVIVED = (5, 33), (0,)
BAR = 0.85


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mutants of modules, and print how many were noticed; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as text/windows.py")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="default those of the library")
    options = parser.parse_args(arguments)
    modules = options.modules or list_modules()
    prepare(modules, options.tests)
    subprocess.run(
        [sys.executable, "-m", "mutmut", "run"],
        cwd=COPY,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    return show({module: read_results(module) for module in modules})


def list_modules() -> list[str]:
    """Return the modules of the library, but for those that are compiled by TorchScript."""
    library = ROOT / LIBRARY
    paths = (path.relative_to(library) for path in sorted(library.rglob("*.py")))
    return [
        str(path) for path in paths if path.stem != "__init__" and "torchscript" not in path.parts
    ]


def prepare(modules: Sequence[str], tests: Sequence[str]) -> None:
    """Make the copy, in which the handlers are the folder `src`, as mutmut wants it."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT, COPY, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    (COPY / "handlers").rename(COPY / "src")
    for folder in (COPY, COPY / "mutants"):
        # Archives that tests build have the mutants, too.
        folder.mkdir(exist_ok=True)
        (folder / "handlers").symlink_to("src")
    (COPY / "model_store").mkdir()
    also = sorted(path.name for path in COPY.iterdir() if path.name not in NOT_COPIED)
    keys = {
        "source_paths": ["src/speechtext"],
        "only_mutate": [f"src/speechtext/{module}" for module in modules],
        "also_copy": also,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": list(tests),
    }
    path = COPY / "pyproject.toml"
    content = path.read_text(encoding="utf-8").replace('"handlers", "scripts"', '"src", "scripts"')
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    path.write_text("\n".join([content, "[tool.mutmut]", *lines, ""]), encoding="utf-8")


def read_results(module: str) -> Mapping[str, int | None]:
    """Return the exit code of the tests for each mutant of a module."""
    path = COPY / "mutants" / "src" / "speechtext" / f"{module}.meta"
    if not path.exists():
        return {}
    results: Mapping[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
    return results


def show(results: Mapping[str, Mapping[str, int | None]]) -> int:
    """Print the table and the survivors; return whether too many were missed."""
    rows, total = [], Counter[str]()
    for module, found in results.items():
        counts = Counter(map(_judge, found.values()))
        total += counts
        rows.append((module, *_figures(counts)))
    print()
    print_table(
        ("module", "mutants", "noticed", "survived", "in no test", "noticed"),
        [*rows, ("all", *_figures(total))],
    )
    for found in results.values():
        for name, code in found.items():
            if _judge(code) == "survived":
                print(f"survived: {name}")
    return 0 if total["noticed"] >= BAR * (total["noticed"] + total["survived"]) else 1


def _judge(code: int | None) -> str:
    if code is None:
        return "not run"
    return "survived" if code in SURVIVED else "untested" if code in UNTESTED else "noticed"


def _figures(counts: Mapping[str, int]) -> tuple[str, str, str, str, str]:
    noticed, survived, untested = (
        counts.get(name, 0) for name in ("noticed", "survived", "untested")
    )
    share = f"{noticed / (noticed + survived):.1%}" if noticed + survived else ""
    return str(noticed + survived + untested), str(noticed), str(survived), str(untested), share


if __name__ == "__main__":
    sys.exit(main())
