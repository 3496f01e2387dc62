"""Break the library in thousands of small ways, and count how many of them its tests notice.

mutmut (https://mutmut.readthedocs.io) makes the mutants, and runs for each the tests that reach the
function it is in. All happens in a copy of the repository, `.build/mutants`; the survivors' names
are printed, and `mutmut show NAME` there shows each. With --most, each module has so many mutants
at most, chosen by chance.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from repository import ROOT
from tables import print_table

FOLDER = ROOT / ".build" / "mutants"
LIBRARY = "handlers/speechtext"
# Tests of the library itself; those of handlers and servers take too long for each mutant.
TESTS = (
    "tests/text",
    "tests/speech",
    "tests/cpu",
    "tests/test_allowance.py",
    "tests/test_batching.py",
    "tests/test_devices.py",
    "tests/test_finite.py",
    "tests/test_host_memory.py",
    "tests/test_parameters.py",
    "tests/test_payloads.py",
    "tests/test_pictures.py",
    "tests/test_settings.py",
)
LEFT_BEHIND = (".git", ".venv", ".build", ".hypothesis", ".*_cache", "__pycache__", "model_store")
# What is copied: mutmut copies tests by itself.
NOT_COPIED = ("handlers", "mutants", "tests")
# A mutant may take so many times the time of its tests, and of so many seconds for what they share,
# such as models that are loaded once: many are endless loops.
PATIENCE, SHARED_S = 4, 20
# Matches no mutant: all of them are made, and it is learned which tests reach them.
NONE = "speechtext.none"
# mutmut's exit codes of mutants that no test runs, and of those that all tests pass with.
UNTESTED, SURVIVED = (5, 33), (0,)
BAR = 0.85
# What TorchScript compiles, and mutmut's detours through another function keep it from.
COMPILED = ("speech/rnnt/torchscript", "speech/rnnt/features.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mutants of modules, and print how many were noticed; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as text/windows.py")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="default those of the library")
    parser.add_argument("--most", type=int, help="mutants of a module; default all")
    parser.add_argument("--seed", type=int, default=1, help="another seed chooses others")
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the copy")
    options = parser.parse_args(arguments)
    modules = options.modules or list_modules()
    prepare(options.folder, modules, options.tests)
    chosen: list[str] = []
    if options.most:
        run_mutmut(options.folder, [NONE], options.children)
        chance = random.Random(options.seed)
        for module in modules:
            names = sorted(read_results(options.folder, module))
            chosen += chance.sample(names, min(options.most, len(names)))
    run_mutmut(options.folder, chosen, options.children)
    return show({module: read_results(options.folder, module) for module in modules})


def run_mutmut(folder: Path, names: Sequence[str], children: int) -> None:
    """Run mutmut in a copy, on the mutants named or on all; what it has learned there it keeps."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "mutmut", "run", f"--max-children={children}", *names],
        cwd=folder,
        check=False,
        # One thread for each: conftest.py takes two where it is alone.
        env={**environment, "PYTEST_XDIST_WORKER": "gw0"},
    )


def list_modules() -> list[str]:
    """Return the modules of the library, but for those that TorchScript compiles."""
    library = ROOT / LIBRARY
    paths = (path.relative_to(library) for path in sorted(library.rglob("*.py")))
    return [
        str(path)
        for path in paths
        if path.stem != "__init__" and not str(path).startswith(COMPILED)
    ]


def prepare(copy: Path, modules: Sequence[str], tests: Sequence[str]) -> None:
    """Make the copy, in which the handlers are the folder `src`, as mutmut wants it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    (copy / "handlers").rename(copy / "src")
    for folder in (copy, copy / "mutants"):
        # Archives that tests build have the mutants, too.
        folder.mkdir(exist_ok=True)
        (folder / "handlers").symlink_to("src")
    (copy / "model_store").mkdir()
    also = sorted(path.name for path in copy.iterdir() if path.name not in NOT_COPIED)
    keys = {
        "source_paths": ["src/speechtext"],
        "timeout_multiplier": PATIENCE,
        "timeout_constant": SHARED_S,
        "only_mutate": [f"src/speechtext/{module}" for module in modules],
        "also_copy": also,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": list(tests),
    }
    path = copy / "pyproject.toml"
    content = path.read_text(encoding="utf-8").replace('"handlers", "scripts"', '"src", "scripts"')
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    path.write_text("\n".join([content, "[tool.mutmut]", *lines, ""]), encoding="utf-8")


def read_results(copy: Path, module: str) -> Mapping[str, int | None]:
    """Return the exit code of the tests for each mutant of a module."""
    path = copy / "mutants" / "src" / "speechtext" / f"{module}.meta"
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
            if _judge(code) in ("survived", "untested"):
                print(f"{_judge(code)}: {name}")
    tried = total["noticed"] + total["survived"] + total["untested"]
    return 0 if total["noticed"] >= BAR * tried else 1


def _judge(code: int | None) -> str:
    if code is None:
        return "not run"
    return "survived" if code in SURVIVED else "untested" if code in UNTESTED else "noticed"


def _figures(counts: Mapping[str, int]) -> tuple[str, str, str, str, str]:
    noticed, survived, untested = (
        counts.get(name, 0) for name in ("noticed", "survived", "untested")
    )
    tried = noticed + survived + untested
    share = f"{noticed / tried:.1%}" if tried else ""
    return str(tried), str(noticed), str(survived), str(untested), share


if __name__ == "__main__":
    sys.exit(main())
