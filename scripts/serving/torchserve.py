"""Start a TorchServe of one's own, and stop exactly that one.

A server lives in a folder: its configuration, its logs and a record of its process. Sockets, the
pid file and unpacked archives go to a temporary folder of its own, so that servers never meet.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from pydantic.dataclasses import dataclass

from records import EXACT, write_record
from serving.configuration import LOG_CONFIG, check_management, check_ports
from serving.java import find_java_home
from serving.logs import log_path, output_path
from serving.processes import (
    STOP_TIMEOUT_S,
    end_processes,
    ended_on_failure,
    read_process_record,
    run_detached,
    session_processes,
)
from shutdown_gate import VARIABLE, close_gate

# Where TorchServe writes the tokens that it asks for.
KEY_FILE = "key_file.json"
# How long a server that is stopped may take for the requests that run, and for sending answers.
DRAIN_TIMEOUT_S, SETTLE_S = 120.0, 1.0


@dataclass(frozen=True, config=EXACT)
class ServerRecord:
    """The first process of a server; `started` tells it from a later one with its pid."""

    pid: int
    started: str
    temporary_folder: str
    inference_url: str
    management_url: str


def start_server(
    folder: Path,
    model_store: Path,
    archives: Sequence[str],
    properties: Mapping[str, str],
    log_config: Path = LOG_CONFIG,
) -> ServerRecord:
    """Start TorchServe in the background and return at once; `archives` are names in the store.

    Raises `ServerError` where a port is taken or others would reach the management API. Whatever
    is raised, nothing of this server is left then.
    """
    check_ports(properties)
    check_management(properties)
    config = _prepare_folder(folder, properties)
    command = [
        str(Path(sys.executable).with_name("torchserve")),
        *("--start", "--foreground", "--no-config-snapshots"),
        *("--ts-config", str(config)),
        *("--log-config", str(log_config)),
        *("--model-store", str(model_store)),
        *("--models", *archives),
    ]
    # Short, because the path of a socket in it may have 107 characters at most.
    temporary_folder = tempfile.mkdtemp(prefix="torchserve-")
    try:
        return _run(command, folder, temporary_folder, properties)
    except BaseException:
        shutil.rmtree(temporary_folder, ignore_errors=True)
        raise


def _run(
    command: Sequence[str], folder: Path, temporary_folder: str, properties: Mapping[str, str]
) -> ServerRecord:
    """Run the command of a server, and write down which one it is."""
    _gate_path(temporary_folder).touch()
    environment = server_environment(folder, temporary_folder)
    process = run_detached(command, folder, environment, output_path(folder))
    addresses = properties["inference_address"], properties["management_address"]
    with ended_on_failure(process) as started:
        record = ServerRecord(process.pid, started, temporary_folder, *addresses)
        write_record(_record_path(folder), record)
    return record


def _prepare_folder(folder: Path, properties: Mapping[str, str]) -> Path:
    """Remove what an earlier server left in `folder`; return its configuration, written anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY_FILE).unlink(missing_ok=True)
    if log_path(folder).is_file():
        log_path(folder).unlink()
    config = _config_path(folder)
    # For nobody else, as it may hold the password of a keystore.
    config.touch(mode=0o600)
    config.chmod(0o600)
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return config


def server_environment(folder: Path, temporary_folder: str) -> dict[str, str]:
    """Return the environment of a server that keeps its files to `folder` and its own temporary.

    TorchServe prefers its own variables, `TS_...`, to the configuration that was checked: it gets
    none.
    """
    passed_on = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    logs = str(log_path(folder).parent)
    return {
        **passed_on,
        "JAVA_HOME": find_java_home(),
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
        # Python's temporary folder, and the JVM's, which torchserve reads from TEMP.
        "TMPDIR": temporary_folder,
        "TEMP": temporary_folder,
        # Captum imports matplotlib, which would keep its list of fonts in the user's home.
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        VARIABLE: str(_gate_path(temporary_folder)),
        # A worker looks for modules in its archive, not where the server was started from.
        "PYTHONPATH": "",
    }


def find_server(folder: Path) -> ServerRecord | None:
    """Return the server that runs in `folder`, or None; raises `ServerError` if that is unknown."""
    record = _read_record(folder)
    return record if record and server_processes(record) else None


def _read_record(folder: Path) -> ServerRecord | None:
    """Return which server was started in `folder`; raises `ServerError` for a damaged record."""
    return read_process_record(
        _record_path(folder), ServerRecord, "server", str(_config_path(folder))
    )


def server_processes(record: ServerRecord) -> list[psutil.Process]:
    """Return what is alive of a server."""
    return session_processes(record.pid, record.started)


def stop_server(
    folder: Path,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    end_timeout_s: float = STOP_TIMEOUT_S,
) -> bool:
    """Stop the server of `folder` with its workers and its files; tell whether it was running.

    Requests that run are answered first, those that come meanwhile get 503 and when to try again.
    Java takes 3.5 s to end, and is killed after `end_timeout_s`. Raises `ServerError` where the
    record of the server is damaged. `KeyboardInterrupt` ends the waiting, and the server all the
    same: its gate is closed then, so that it would answer nobody.
    """
    record = _read_record(folder)
    if record is None:
        return False
    processes = server_processes(record)
    try:
        if processes:
            _drain(record, drain_timeout_s)
    finally:
        end_processes(processes, end_timeout_s)
        shutil.rmtree(record.temporary_folder, ignore_errors=True)
        _record_path(folder).unlink(missing_ok=True)
    return bool(processes)


def _drain(record: ServerRecord, timeout_s: float) -> None:
    """Let the batches that run end, and TorchServe send their answers."""
    try:
        drained = close_gate(_gate_path(record.temporary_folder), timeout_s)
    except OSError:
        # The disk is full, or somebody removed the folder.
        drained = False
    if not drained:
        print("Requests that still run are lost.", flush=True)
    time.sleep(SETTLE_S)


def _gate_path(temporary_folder: str) -> Path:
    return Path(temporary_folder) / "gate"


def _config_path(folder: Path) -> Path:
    return folder / "config.properties"


def _record_path(folder: Path) -> Path:
    return folder / "server.json"
