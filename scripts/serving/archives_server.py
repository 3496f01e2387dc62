"""The server of `make serve`: archives built as needed, and each of them tried."""

import fcntl
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from archives.building import build_archive
from archives.configs import ArchiveConfig, choose_configs
from archives.disk_space import check_disk_space
from gateway.settings import CONFIG_FILE as GATEWAY_CONFIG
from repository import CONFIG_FOLDER, MODEL_STORE, SERVER_FOLDER
from serving.configuration import CONFIG_FILE, read_properties
from serving.examples import check_example, try_example
from serving.gateway import (
    check_gateway,
    find_gateway,
    start_gateway,
    stop_gateway,
)
from serving.logs import log_path
from serving.status import START_TIMEOUT_S, authorization, wait_until_ready
from serving.torchserve import DRAIN_TIMEOUT_S, find_server, start_server, stop_server

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

    `models` name YAML files of `config_folder`; none of them stands for all. Where another call
    does the same in `folder`, this one waits for it. Raises `BuildError` or `ServerError` with one
    message, and leaves no process behind then.
    """
    with _alone(folder):
        running = find_server(folder)
        # A damaged record of a gateway is told now, not when everything else is up.
        find_gateway(folder)
        properties = read_properties(config_file)
        if running:
            report(f"A server is up already at {running.inference_url}; make stop ends it.")
            _serve_gateway(folder, properties, gateway_config)
            return
        configs = choose_configs(models, config_folder)
        archives = _build_all(configs, model_store)
        check_gateway(folder, properties, gateway_config)
        report("Starting TorchServe ...")
        start_server(folder, model_store, [path.name for path in archives], properties)
        try:
            wait_until_ready(folder, [config.name for config in configs], START_TIMEOUT_S, report)
            _try_all(folder, configs, properties)
            _serve_gateway(folder, properties, gateway_config)
        except BaseException:
            stop_serving(folder)
            raise


def stop_serving(folder: Path = SERVER_FOLDER) -> bool:
    """Stop gateway and server when their requests have ended; tell whether either was running.

    Raises `ServerError` where a record is damaged, when the other of the two is stopped.
    `KeyboardInterrupt` ends the waiting for requests, and both all the same.
    """
    drain_timeout_s = DRAIN_TIMEOUT_S
    # The gateway first: what it still answers needs the server.
    try:
        gateway = stop_gateway(folder)
    except KeyboardInterrupt:
        drain_timeout_s = 0.0
        raise
    finally:
        server = stop_server(folder, drain_timeout_s)
    return gateway or server


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one at a time look for a server in `folder`, build archives and start one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another make serve ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_all(configs: Sequence[ArchiveConfig], model_store: Path) -> list[Path]:
    """Build what is missing; what only a server that is up would notice is checked before."""
    for config in configs:
        check_example(config)
    archives = [build_archive(config, model_store) for config in configs]
    _check_room_to_unpack(archives)
    return archives


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
