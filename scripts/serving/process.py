"""Start a TorchServe of one's own, and stop exactly that one.

A server lives in a folder: its configuration, its logs and a record of its process. Sockets, the
pid file and unpacked archives go to a temporary folder of its own, so that servers never meet.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic.dataclasses import dataclass

from records import EXACT, DamagedRecordError, Record, read_record, write_record
from serving.configuration import LOG_CONFIG, check_management, check_ports
from serving.errors import ServerError
from serving.java import find_java_home
from serving.logs import log_path, output_path
from shutdown_gate import VARIABLE, close_gate

# Where TorchServe writes the tokens that it asks for.
KEY_FILE = "key_file.json"
STOP_TIMEOUT_S = 20.0
# How long a server that is stopped may take for the requests that run, and for sending answers.
DRAIN_TIMEOUT_S, SETTLE_S = 120.0, 1.0


@dataclass(frozen=True, config=EXACT)
class ServerRecord:
    """The first process of a server; `created_s` tells it from a later one with its pid."""

    pid: int
    created_s: float
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

    Raises `ServerError` where a port is taken or others would reach the management API.
    """
    check_ports(properties)
    check_management(properties)
    config = _prepare_folder(folder, properties)
    # Short, because the path of a socket in it may have 107 characters at most.
    temporary_folder = tempfile.mkdtemp(prefix="torchserve-")
    _gate_path(temporary_folder).touch()
    command = [
        str(Path(sys.executable).with_name("torchserve")),
        *("--start", "--foreground", "--no-config-snapshots"),
        *("--ts-config", str(config)),
        *("--log-config", str(log_config)),
        *("--model-store", str(model_store)),
        *("--models", *archives),
    ]
    environment = server_environment(folder, temporary_folder)
    process = run_detached(command, folder, environment, output_path(folder))
    return _record(folder, process, temporary_folder, properties)


def _record(
    folder: Path,
    process: subprocess.Popen[bytes],
    temporary_folder: str,
    properties: Mapping[str, str],
) -> ServerRecord:
    """Write down which server runs in `folder`."""
    record = ServerRecord(
        process.pid,
        psutil.Process(process.pid).create_time(),
        temporary_folder,
        properties["inference_address"],
        properties["management_address"],
    )
    write_record(_record_path(folder), record)
    return record


def _prepare_folder(folder: Path, properties: Mapping[str, str]) -> Path:
    """Remove what an earlier server left in `folder`; return its configuration, written anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY_FILE).unlink(missing_ok=True)
    if log_path(folder).is_file():
        log_path(folder).unlink()
    config = _config_path(folder)
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return config


def run_detached(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], printed: Path
) -> subprocess.Popen[bytes]:
    """Run a command in `folder`, in a session of its own; `printed` gets what it prints."""
    with printed.open("wb") as output:
        return subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def server_environment(folder: Path, temporary_folder: str) -> dict[str, str]:
    """Return the environment of a server that keeps its files to `folder` and its own temporary."""
    return {
        **os.environ,
        "JAVA_HOME": find_java_home(),
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


def read_process_record(
    path: Path, record_class: type[Record], kind: str, pattern: str
) -> Record | None:
    """Return the record of a process; `pattern` is how pgrep finds such a one.

    Raises `ServerError` for a damaged record.
    """
    try:
        return read_record(path, record_class)
    except DamagedRecordError as error:
        # One may run: to forget it would leave it running, and holding its ports.
        raise ServerError(
            f"{path} is damaged, so that it does not tell which {kind} runs: stop what "
            f"`pgrep -af {pattern}` lists, if anything, and remove that file."
        ) from error


def server_processes(record: ServerRecord) -> list[psutil.Process]:
    """Return what is alive of a server."""
    return session_processes(record.pid, record.created_s)


def session_processes(leader: int, created_s: float) -> list[psutil.Process]:
    """Return what is alive of a session, which may outlive its leader."""
    try:
        if psutil.Process(leader).create_time() != created_s:
            return []
    except psutil.NoSuchProcess:
        pass
    return [process for process in psutil.process_iter() if _is_alive_in(process, leader)]


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def stop_server(
    folder: Path,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    end_timeout_s: float = STOP_TIMEOUT_S,
) -> bool:
    """Stop the server of `folder` with its workers and its files; tell whether it was running.

    Requests that run are answered first, those that come meanwhile get 503 and when to try again.
    Java takes 3.5 s to end, and is killed after `end_timeout_s`. Raises `ServerError` where the
    record of the server is damaged.
    """
    record = _read_record(folder)
    if record is None:
        return False
    processes = server_processes(record)
    if processes:
        _drain(record, drain_timeout_s)
    end_processes(processes, end_timeout_s)
    shutil.rmtree(record.temporary_folder, ignore_errors=True)
    _record_path(folder).unlink()
    return bool(processes)


def _drain(record: ServerRecord, timeout_s: float) -> None:
    """Let the batches that run end, and TorchServe send their answers."""
    if not close_gate(_gate_path(record.temporary_folder), timeout_s):
        print("Requests that still run are lost.", flush=True)
    time.sleep(SETTLE_S)


def end_processes(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Ask processes to end, and kill those that have not within `timeout_s`."""
    for process in processes:
        signal_quietly(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        signal_quietly(process.kill)
    psutil.wait_procs(alive)


def signal_quietly(send: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended."""
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _gate_path(temporary_folder: str) -> Path:
    return Path(temporary_folder) / "gate"


def _config_path(folder: Path) -> Path:
    return folder / "config.properties"


def _record_path(folder: Path) -> Path:
    return folder / "server.json"
