"""The server of `make serve`: archives built as needed, and each of them tried."""

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from archives.building import build_archive
from archives.configs import ArchiveConfig, choose_configs
from archives.disk_space import check_disk_space
from gateway.settings import CONFIG_FILE as GATEWAY_CONFIG
from repository import CONFIG_FOLDER, MODEL_STORE, SERVER_FOLDER
from serving.configuration import CONFIG_FILE, read_properties
from serving.examples import try_example
from serving.gateway import (
    check_gateway,
    find_gateway,
    start_gateway,
    stop_gateway,
)
from serving.logs import log_path
from serving.process import find_server, start_server, stop_server
from serving.status import START_TIMEOUT_S, authorization, wait_until_ready

UNPACKED_GROWTH = 2
report = functools.partial(print, flush=True)


def serve_archives(
    models: Sequence[str],
    folder: Path = SERVER_FOLDER,
    config_file: Path = CONFIG_FILE,
    config_folder: Path = CONFIG_FOLDER,
    model_store: Path = MODEL_STORE,
    gateway_config: Path = GATEWAY_CONFIG,
) -> None:
    """Build what is missing, start the server in `folder`, try each model, and start the gateway.

    `models` name YAML files of `config_folder`; none of them stands for all. Raises `BuildError` or
    `ServerError` with one message, and leaves no process behind then.
    """
    running = find_server(folder)
    if running:
        report(f"A server is up already at {running.inference_url}; make stop ends it.")
        _serve_gateway(folder, read_properties(config_file), gateway_config)
        return
    configs = choose_configs(models, config_folder)
    archives = [build_archive(config, model_store) for config in configs]
    _check_room_to_unpack(archives)
    properties = read_properties(config_file)
    check_gateway(folder, properties, gateway_config)
    report("Starting TorchServe ...")
    try:
        start_server(folder, model_store, [path.name for path in archives], properties)
        wait_until_ready(folder, [config.name for config in configs], START_TIMEOUT_S, report)
        _try_all(folder, configs, properties)
        _serve_gateway(folder, properties, gateway_config)
    except BaseException:
        stop_serving(folder)
        raise


def stop_serving(folder: Path = SERVER_FOLDER) -> bool:
    """Stop gateway and server when their requests have ended; tell whether either was running."""
    # The gateway first: what it still answers needs the server.
    stopped = [stop_gateway(folder), stop_server(folder)]
    return any(stopped)


def _serve_gateway(folder: Path, properties: Mapping[str, str], config_file: Path) -> None:
    """Start the gateway, unless it is up, and tell where it is."""
    gateway = find_gateway(folder) or start_gateway(folder, properties, config_file)
    report(f"Open {gateway.url}")


def _try_all(folder: Path, configs: Sequence[ArchiveConfig], properties: Mapping[str, str]) -> None:
    """Try each model, and tell how to reach and end the server."""
    token = authorization(folder, "inference")
    for config in configs:
        try_example(
            config, properties["inference_address"], token, properties.get("certificate_file")
        )
    log = os.path.relpath(log_path(folder))
    report(f"\nServing at {properties['inference_address']}; its log is {log}.")
    for name, value in token.items():
        report(f"Requests need the header {name}: {value}")
    report("make stop ends it.")


def _check_room_to_unpack(archives: Sequence[Path]) -> None:
    """TorchServe unpacks each archive into the temporary folder; its weights hardly shrink."""
    files = (file for archive in archives for file in (archive, *archive.rglob("*")))
    size = sum(file.stat().st_size for file in files if file.is_file())
    check_disk_space(Path(tempfile.gettempdir()), size * UNPACKED_GROWTH)
