"""Serve archives on this machine, with Ray or in one process, or write the YAML of a cluster."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cluster.archives import ArchiveError, find_archives, read_yaml
from cluster.own_ray import ROOT, prepare_environment
from cluster.serve_config import write_config
from gateway.settings import CONFIG_FILE, Settings, SettingsError, read_settings

COMMANDS = ("up", "config")
ENGINES = ("ray", "process")
# Where Ray serves on this machine, unless the command line says otherwise.
HOST, PORT = "127.0.0.1", 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal, or print a configuration; return the exit status."""
    options = parse_arguments(arguments)
    try:
        if options.engine == "process":
            return serve_process(options)
        config = make_config(options)
        if options.command == "config":
            print(yaml.safe_dump(config, sort_keys=False), end="")
            return 0
        settings = read_gateway(options, {"host": HOST, "port": PORT})
        return serve_here(find_each(config, Path(options.model_store)), settings)
    except (ArchiveError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("command", choices=COMMANDS, help="serve here, or print serve's YAML")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default all")
    parser.add_argument(
        "--engine", choices=ENGINES, default="ray", help="up: what runs the archives, default ray"
    )
    parser.add_argument("--configs", type=Path, default=ROOT / "model_configs")
    parser.add_argument(
        "--model-store", default=str(ROOT / "model_store"), help="where each node has the archives"
    )
    parser.add_argument("--gateway-config", type=Path, default=CONFIG_FILE)
    parser.add_argument("--host", help=f"default {HOST}; of a process, gateway.yaml's")
    parser.add_argument("--port", type=int, help=f"default {PORT}, or likewise")
    # So that options may come before the names of models.
    options = parser.parse_intermixed_args(arguments)
    if options.command == "config" and options.engine != "ray":
        parser.error("config writes what Ray takes: expected --engine ray")
    return options


def make_config(options: argparse.Namespace) -> dict[str, Any]:
    """Return what Ray Serve is told; raises `ArchiveError` or `SettingsError`."""
    files = {path.stem: path for path in sorted(options.configs.glob("*.yaml"))}
    unknown = sorted(set(options.models) - set(files))
    if unknown:
        raise ArchiveError(f"Expected models among {', '.join(files)}; got {', '.join(unknown)}.")
    names = options.models or list(files)
    keys = {name: read_yaml(files[name], name) for name in names}
    # As JSON has it: kinds of models are names, too.
    gateway = json.loads(json.dumps(asdict(read_settings(options.gateway_config))))
    return write_config(keys, options.model_store, gateway)


def find_each(config: Mapping[str, Any], store: Path) -> dict[str, Any]:
    """Return a configuration with archives as they are here, whatever their format.

    Raises `ArchiveError` for one that is not.
    """
    found = find_archives(store)
    applications = []
    for application in config["applications"]:
        arguments = dict(application["args"])
        if "archive" in arguments:
            name = application["name"]
            if name not in found:
                raise ArchiveError(f"{name}: expected an archive in {store}; make archive.")
            arguments["archive"] = str(found[name])
        applications.append({**application, "args": arguments})
    return {**config, "applications": applications}


def serve_process(options: argparse.Namespace) -> int:
    """Serve the archives of a model store in this process until a signal ends it.

    Raises `ArchiveError` or `SettingsError`.
    """
    from cluster.one_process import serve_in_one_process

    settings = read_gateway(options, {})
    return serve_in_one_process(Path(options.model_store), options.models, settings)


def read_gateway(options: argparse.Namespace, changes: Mapping[str, Any]) -> Settings:
    """Return the settings of the gateway, those of the command line over others."""
    given = {name: getattr(options, name) for name in ("host", "port")}
    said = {name: value for name, value in given.items() if value is not None}
    return read_settings(options.gateway_config, {**changes, **said})


def serve_here(config: Mapping[str, Any], settings: Settings) -> int:
    """Serve on a Ray of this process's own until a signal ends it; nothing is left then."""
    prepare_environment()
    # Also where whoever started this ignores them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="ray-") as folder:
        from cluster.embedded import embedded_ray, serve_gateway

        with embedded_ray(config, Path(folder)):
            # Ray has handlers of its own.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            serve_gateway(settings)
    return 0
