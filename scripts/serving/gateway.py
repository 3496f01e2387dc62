"""The gateway beside a TorchServe: started, found and stopped, as a process of its own.

Its folder, which may be the server's, holds a record of the process and what it printed.
"""

import os
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2
from pydantic.dataclasses import dataclass

from gateway.settings import CONFIG_FILE as GATEWAY_CONFIG
from gateway.settings import Settings, SettingsError, read_settings
from records import EXACT, write_record
from repository import ROOT
from serving.configuration import check_port
from serving.errors import ServerError
from serving.processes import (
    end_processes,
    ended_on_failure,
    read_process_record,
    run_detached,
    session_processes,
)
from serving.torchserve import KEY_FILE

START_TIMEOUT_S, ASK_EVERY_S, ASK_TIMEOUT_S = 30.0, 0.1, 5.0
# How much longer than it lets requests run it may take to end.
STOP_MARGIN_S = 10.0
LAST_LINES = 5


@dataclass(frozen=True, config=EXACT)
class GatewayRecord:
    """The process of a gateway; `started` tells it from a later one with its pid."""

    pid: int
    started: str
    url: str
    shutdown_timeout_s: float


def check_gateway(folder: Path, properties: Mapping[str, str], config_file: Path) -> Settings:
    """Return the settings of a gateway before the server of `folder` with these properties.

    Raises `ServerError` for a mistake in them, or where its port is in use.
    """
    try:
        settings = read_settings(config_file, _changes(properties, folder))
    except SettingsError as error:
        raise ServerError(str(error)) from error
    check_port("port", settings.port, config_file.name)
    return settings


def start_gateway(
    folder: Path, properties: Mapping[str, str], config_file: Path = GATEWAY_CONFIG
) -> GatewayRecord:
    """Start a gateway in the background, and return when it answers.

    Raises `ServerError` where its port is taken, or it does not start.
    """
    settings = check_gateway(folder, properties, config_file)
    options = [
        text
        for name, value in _changes(properties, folder).items()
        for text in (f"--{name.replace('.', '-').replace('_', '-')}", value)
    ]
    command = [sys.executable, "-m", "gateway", "--config", str(config_file), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder.mkdir(parents=True, exist_ok=True)
    process = run_detached(command, folder, environment, gateway_log_path(folder))
    url = f"{'https' if settings.certificate_file else 'http'}://{settings.host}:{settings.port}"
    with ended_on_failure(process) as started:
        record = GatewayRecord(process.pid, started, url, settings.shutdown_timeout_s)
        write_record(_record_path(folder), record)
        _wait_until_up(folder, record)
    return record


def _changes(properties: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what config.properties says of the server, as settings of the gateway."""
    keys = ("inference_address", "management_address", "certificate_file")
    found = {f"torchserve.{key}": properties[key] for key in keys if key in properties}
    if properties.get("disable_token_authorization") != "true":
        found["torchserve.key_file"] = str(folder / KEY_FILE)
    return found


def _wait_until_up(folder: Path, record: GatewayRecord) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    # Whoever it is: this only asks whether it answers.
    any_certificate = ssl._create_unverified_context()  # noqa: S323
    while time.monotonic() < deadline_s and find_gateway(folder):
        try:
            httpx2.get(
                f"{record.url}/livez",
                verify=any_certificate,
                timeout=ASK_TIMEOUT_S,
                trust_env=False,
            )
        except httpx2.HTTPError:
            time.sleep(ASK_EVERY_S)
        else:
            return
    lines = gateway_log_path(folder).read_text(encoding="utf-8", errors="replace").splitlines()
    said = "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
    raise ServerError(f"The gateway did not start.\n{said}")


def find_gateway(folder: Path) -> GatewayRecord | None:
    """Return the gateway that runs in `folder`, or None; raises `ServerError` if unknown."""
    record = _read_record(folder)
    return record if record and session_processes(record.pid, record.started) else None


def stop_gateway(folder: Path) -> bool:
    """Stop the gateway of `folder` when its requests have ended; tell whether it was running.

    Raises `ServerError` where its record is damaged. `KeyboardInterrupt` ends the waiting, and the
    gateway all the same.
    """
    record = _read_record(folder)
    if record is None:
        return False
    processes = session_processes(record.pid, record.started)
    try:
        end_processes(processes, record.shutdown_timeout_s + STOP_MARGIN_S)
    finally:
        _record_path(folder).unlink(missing_ok=True)
    return bool(processes)


def gateway_log_path(folder: Path) -> Path:
    """Return the file that holds what the gateway of `folder` printed."""
    return folder / "gateway.log"


def _read_record(folder: Path) -> GatewayRecord | None:
    """Return which gateway was started in `folder`; raises `ServerError` for a damaged record."""
    return read_process_record(
        _record_path(folder), GatewayRecord, "gateway", "'python -m gateway'"
    )


def _record_path(folder: Path) -> Path:
    return folder / "gateway.json"
