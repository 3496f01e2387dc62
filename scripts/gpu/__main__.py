"""Prove on a GPU what was only ever run on a CPU, and measure it: one command, one table.

With `--device cpu` the same sections run here, small, so that they are known to work.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
import transformers

from gpu.live_figures import measure_live
from gpu.memory import run_out
from gpu.parity import compare
from gpu.plan import Plan, Result, describe
from gpu.servers import serve_archives, share_device
from gpu.speech_figures import measure_speech
from gpu.text_figures import measure_texts
from repository import ROOT
from tables import print_table

FOLDER = ROOT / ".build" / "gpu"
HEADER = ("section", "what", "found", "bar", "held")
# Tests that ask models on each device there is, and a few of them that show that they can.
TESTS = ("tests/torchserve", "tests/text", "tests/speech")
FEW_TESTS = ("tests/torchserve/test_device_io.py",)


def describe_machine(plan: Plan) -> Iterator[Result]:
    """Yield what the figures are of."""
    yield Result("Python, PyTorch, transformers", ", ".join(_versions()))
    yield Result("processor", platform.processor() or platform.machine())
    if plan.device.type == "cuda":
        card = torch.cuda.get_device_properties(plan.device)
        memory_gb = card.total_memory / 1e9
        yield Result("card", f"{card.name}, {memory_gb:.0f} GB, {card.major}.{card.minor}")


def _versions() -> tuple[str, ...]:
    return platform.python_version(), torch.__version__, transformers.__version__


def run_tests(plan: Plan) -> Iterator[Result]:
    """Yield how the tests of the handlers end on the device."""
    chosen = plan.amount((*TESTS, "-k", "not gpu-None"), FEW_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    ended = subprocess.run(  # noqa: S603 - our own tests
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = ended.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    said = lines[-1].strip("= ") if lines else "nothing"
    yield Result("handler tests", said, "all pass", ended.returncode == 0)
    yield from (Result("handler tests", line.replace("|", "/")[:200]) for line in failed)


SECTIONS: Mapping[str, Callable[[Plan], Iterator[Result]]] = {
    "machine": describe_machine,
    "parity": compare,
    "memory": run_out,
    "archives": serve_archives,
    "workers": share_device,
    "texts": measure_texts,
    "speech": measure_speech,
    "live": measure_live,
    "tests": run_tests,
}


def run(plan: Plan, sections: Sequence[str], path: Path) -> list[tuple[str, ...]]:
    """Run sections; return the table's rows, which are in a file as soon as each is known.

    What a section raises is a row, and the next one goes on.
    """
    rows: list[tuple[str, ...]] = []

    def note(section: str, result: Result) -> None:
        rows.append(result.row(section))
        with path.open("w", encoding="utf-8") as table:
            print_table(HEADER, rows, table)
        print(f"  {section}: {result.what}: {result.found}", file=sys.stderr, flush=True)

    for section in sections:
        started_s = time.monotonic()
        try:
            # What is built and started says so; the table is what this command prints.
            with redirect_stdout(sys.stderr):
                for result in SECTIONS[section](plan):
                    note(section, result)
        except Exception as error:
            note(section, Result("the section ended early", describe(error), "", held=False))
        plan.forget()
        note(section, Result("seconds", f"{time.monotonic() - started_s:.0f}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu; default cuda")
    parser.add_argument("--recordings", type=Path, help="WAV files to compare, beside the examples")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of table.md")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"expected sections among {', '.join(SECTIONS)}; got {', '.join(unknown)}")
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is None:
        # Some of PyTorch's functions take no device without its number.
        device = torch.device("cuda", 0)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        parser.error(
            f"expected a GPU that PyTorch can use, or --device cpu; got {device}, "
            f"and there are {torch.cuda.device_count()}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "table.md"
    rows = run(Plan(device, options.recordings), options.sections or list(SECTIONS), path)
    print_table(HEADER, rows)
    print(f"\nThe table is {path}.")
    return 1 if any(row[-1] == "NO" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
