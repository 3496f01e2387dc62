"""Transcribe recordings, or annotate texts, with an archive and all the workers that Ray has."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence

from bulk.errors import JobError
from bulk.subtitles import FORMATS
from bulk.workflow import KINDS, run
from cluster.archives import ArchiveError
from cluster.own_ray import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a job, or go on with one; return the exit status."""
    # Where whoever started this ignores it, too: a job that is interrupted goes on later.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parse_arguments(arguments)
    try:
        run(options, KINDS[options.command])
        return 0
    except (ArchiveError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted; run the same command again to resume.", file=sys.stderr)
    return 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bulk", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    transcribe = commands.add_parser("transcribe", help="recordings to transcripts")
    transcribe.add_argument("--subtitles", choices=FORMATS, help="beside each recording, too")
    transcribe.add_argument(
        "--cut-minutes", type=_minutes, default=10.0, help="longer recordings are cut (default 10)"
    )
    annotate = commands.add_parser("annotate", help="texts to labels, entities, answers")
    annotate.add_argument("--explain", action="store_true", help="explanations in their place")
    annotate.add_argument("--parameters", type=json.loads, default={}, help="of requests, as JSON")
    annotate.add_argument(
        "--columns", type=_columns, default={}, help="question=q,context=c; default: those names"
    )
    for name, command in commands.choices.items():
        _add_common(command, KINDS[name].model)
    return parser.parse_args(arguments)


def _add_common(parser: argparse.ArgumentParser, model: str) -> None:
    location = "a folder or a table (Parquet, CSV, JSON lines), here or at s3:// or gs://"
    parser.add_argument("--in", dest="source", type=_location, required=True, help=location)
    parser.add_argument(
        "--out", dest="output", type=_location, required=True, help="a folder, likewise"
    )
    parser.add_argument(
        "--archive",
        default=str(ROOT / "model_store" / f"{model}.mar"),
        help="its path on each node (default %(default)s)",
    )
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument(
        "--workers", type=_workers, help="how many, or 2-16; default: what Ray's cores take"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def _location(value: str) -> str:
    if not value:
        raise argparse.ArgumentTypeError("expected a path or an address, got nothing")
    return value


def _minutes(value: str) -> float:
    minutes = float(value)
    if not minutes > 0:
        raise argparse.ArgumentTypeError("expected a time in minutes above 0")
    return minutes


def _workers(value: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", value)
    if not numbers:
        raise argparse.ArgumentTypeError("expected how many workers, as 4 or 2-16")
    least, most = int(numbers[1]), int(numbers[2] or numbers[1])
    return least, max(least, most)


def _columns(value: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in value.split(",")]
    if not all(field and column for field, _, column in pairs):
        raise argparse.ArgumentTypeError("expected question=column,context=column")
    return {field.strip(): column.strip() for field, _, column in pairs}
