"""Train the demo models from nothing into demo_models/; the speech models need espeak-ng."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo_models import speech_examples
from demo_models.catalogue import MODELS, WORKSPACE
from demo_models.espeak import EspeakMissingError
from repository import EXAMPLES, ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to train; default all")
    parser.add_argument("--output", type=Path, default=ROOT / "demo_models", help="where to write")
    parser.add_argument(
        "--examples", action="store_true", help="only speak the recordings of examples/ anew"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - set(MODELS))
    if unknown:
        parser.error(f"expected models among {', '.join(MODELS)}; got {', '.join(unknown)}")
    try:
        if options.examples:
            speech_examples.write(EXAMPLES, WORKSPACE)
        else:
            train(options.models or list(MODELS), options.output)
    except EspeakMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(names: Sequence[str], output: Path) -> None:
    """Train models one after the other, each into a folder of its name."""
    for name in names:
        started_s = time.monotonic()
        MODELS[name].train(output / name, WORKSPACE)
        print(f"{name}: trained in {(time.monotonic() - started_s) / 60:.0f} min", flush=True)


if __name__ == "__main__":
    sys.exit(main())
