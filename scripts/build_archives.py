"""Build the model archives that TorchServe loads, those that are missing or out of date."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from archives.building import build_archive
from archives.configs import ArchiveConfig, choose_configs
from archives.errors import BuildError
from archives.own_configs import KINDS, own_config
from archives.packaging import FORMATS
from repository import CONFIG_FOLDER, HANDLER_FOLDER, MODEL_STORE


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="archives to build; default all")
    parser.add_argument(
        "--source",
        help="hub name, folder, torchaudio or torchaudio:BUNDLE; default as last time",
    )
    parser.add_argument("--format", choices=FORMATS, help="default as last time, else a .mar")
    parser.add_argument("--name", help="of a model of your own, which gets a YAML of its own")
    parser.add_argument(
        "--handler", metavar="KIND", help=f"what the model of that name is: {', '.join(KINDS)}"
    )
    parser.add_argument("--configs", type=Path, default=CONFIG_FOLDER, help="where the YAMLs are")
    parser.add_argument("--model-store", type=Path, default=MODEL_STORE, help="where to write")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace) -> None:
    """Build what the command line asks for; raises `BuildError` with one sentence."""
    if options.name is not None:
        if options.models:
            raise BuildError("Expected NAME of a model of your own or MODEL, got both.")
        with own_config(options.name, options.handler, options.source, options.configs) as config:
            _build_all([config], options)
        return
    if options.handler is not None:
        raise BuildError("Expected a NAME with HANDLER, for example NAME=support_calls.")
    configs = choose_configs(options.models, options.configs)
    if options.source and len(configs) != 1:
        raise BuildError("Expected one MODEL with a SOURCE, for example MODEL=wav2vec2.")
    _build_all(configs, options)


def _build_all(configs: Sequence[ArchiveConfig], options: argparse.Namespace) -> None:
    for config in configs:
        build_archive(config, options.model_store, options.source, options.format)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; return the exit status."""
    try:
        build(parse_arguments(arguments))
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HANDLER_FOLDER))
    sys.exit(main())
