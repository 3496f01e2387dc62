"""Servers are found and stopped, whatever becomes of their files, the clock and whoever waits.

Processes that do nothing stand in for TorchServe and the gateway.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from records import write_record
from repository import MODEL_STORE, ROOT
from serving.archives_server import stop_serving
from serving.configuration import free_properties
from serving.errors import ServerError
from serving.gateway import GatewayRecord, find_gateway
from serving.processes import process_start
from serving.torchserve import (
    ServerRecord,
    find_server,
    server_environment,
    start_server,
    stop_server,
)

NOWHERE = "http://127.0.0.1:9"
DEADLINE_S = 60.0
SLEEP = "import time; time.sleep(300)"
# Leaves a file when it is asked to end, and does not.
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1], "asked").touch())
pathlib.Path(sys.argv[1], "up").touch()
while True:
    time.sleep(1)
"""
# scripts/serve.py with a server folder of one's own; what runs in the background ignores SIGINT.
SERVE = """
import pathlib, signal, sys
import serve
signal.signal(signal.SIGINT, signal.default_int_handler)
serve.SERVER_FOLDER = pathlib.Path(sys.argv[1])
sys.exit(serve.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Standing:
    """A server of `folder` that answers nothing; `process` is its only one."""

    folder: Path
    temporary_folder: Path
    process: subprocess.Popen[bytes]

    @property
    def gate(self) -> Path:
        """Return the file that lets requests in."""
        return self.temporary_folder / "gate"

    def has_ended(self) -> bool:
        """Tell whether nothing of it is left: process, record, temporary folder."""
        process_ended = self.process.wait(DEADLINE_S) is not None
        left = self.temporary_folder.exists() or (self.folder / "server.json").exists()
        return process_ended and not left


@contextmanager
def stand_in(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own, and end it whatever happens."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True)
    # A child that has ended is one until somebody asks for its status.
    threading.Thread(target=process.wait).start()
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    """Return a server that runs, with its record and an open gate."""
    folder, temporary_folder = tmp_path / "server", tmp_path / "torchserve"
    folder.mkdir()
    temporary_folder.mkdir()
    with stand_in(SLEEP) as process:
        found = Standing(folder, temporary_folder, process)
        found.gate.touch()
        started = process_start(process.pid)
        record = ServerRecord(process.pid, started, str(temporary_folder), NOWHERE, NOWHERE)
        write_record(folder / "server.json", record)
        yield found


def fill_disk(standing: Standing) -> None:
    standing.gate.unlink()
    standing.gate.symlink_to("/dev/full")


def remove_temporary_folder(standing: Standing) -> None:
    shutil.rmtree(standing.temporary_folder)


@pytest.mark.parametrize("harm", [fill_disk, remove_temporary_folder])
def test_server_whose_gate_cannot_be_closed_is_stopped(
    harm: Callable[[Standing], None], standing: Standing, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(standing)
    assert stop_serving(standing.folder)
    assert standing.has_ended()
    assert capsys.readouterr().out == "Requests that still run are lost.\n"


def test_server_of_a_gateway_with_a_damaged_record_is_stopped(standing: Standing) -> None:
    (standing.folder / "gateway.json").write_text("{")
    with pytest.raises(ServerError, match=r"gateway\.json is damaged"):
        stop_serving(standing.folder)
    assert standing.has_ended()


@pytest.mark.parametrize("step_s", [-3600, 1])
def test_server_is_found_when_the_clock_was_set(
    step_s: int, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Linux calls the time of the boot is the clock's time less that since then.
    boot_s = psutil.boot_time() + step_s
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_s)
    found = find_server(standing.folder)
    assert found is not None
    assert found.pid == standing.process.pid
    assert stop_server(standing.folder)
    assert standing.has_ended()


def test_another_process_with_the_pid_of_a_server_is_not_its_own(standing: Standing) -> None:
    record = find_server(standing.folder)
    assert record is not None
    boot, ticks = record.started.split()
    for started in (f"{boot} {int(ticks) - 1}", f"another-boot {ticks}"):
        write_record(standing.folder / "server.json", replace(record, started=started))
        assert find_server(standing.folder) is None
        assert not stop_server(standing.folder)
    assert standing.process.poll() is None


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run scripts/serve.py for the server of `folder`."""
    python_path = os.pathsep.join(str(ROOT / each) for each in ("", "handlers", "scripts"))
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send what Ctrl-C does; return what is written to stderr."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    return errors


def wait_until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@contextmanager
def request_that_runs(gate: Path) -> Iterator[None]:
    """Hold the gate as a worker does while it answers a batch."""
    with gate.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield


def test_interrupted_stop_waits_no_longer_and_leaves_nothing(standing: Standing) -> None:
    with request_that_runs(standing.gate), serving(standing.folder, "stop") as stopping:
        wait_until(lambda: standing.gate.stat().st_size > 0)
        assert interrupt(stopping) == "interrupted; nothing is left running\n"
    assert standing.has_ended()


def test_stop_that_is_interrupted_at_the_gateway_waits_for_neither(
    standing: Standing, tmp_path: Path
) -> None:
    with stand_in(STUBBORN, str(tmp_path)) as gateway:
        wait_until((tmp_path / "up").exists)
        record = GatewayRecord(gateway.pid, process_start(gateway.pid), NOWHERE, 1000.0)
        write_record(standing.folder / "gateway.json", record)
        with request_that_runs(standing.gate), serving(standing.folder, "stop") as stopping:
            wait_until((tmp_path / "asked").exists)
            assert interrupt(stopping) == "interrupted; nothing is left running\n"
        assert gateway.wait(DEADLINE_S) == -signal.SIGKILL
    assert find_gateway(standing.folder) is None
    assert standing.has_ended()


def test_interrupted_start_does_not_say_that_the_server_of_another_is_gone(
    standing: Standing,
) -> None:
    with (standing.folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with serving(standing.folder, "start") as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "Waiting for another make serve ...\n"
            assert interrupt(waiting) == "interrupted; make stop ends what is running\n"
    assert find_server(standing.folder) is not None


def test_server_that_cannot_be_recorded_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder = tmp_path / "server"
    (folder / "server.json").mkdir(parents=True)
    copy = folder / "config.properties"
    copy.touch(mode=0o644)
    with pytest.raises(OSError, match=r"server\.json"):
        start_server(folder, MODEL_STORE, [], free_properties())
    assert [each for each in psutil.process_iter() if str(folder) in command_of(each)] == []
    assert list(temporary.iterdir()) == []
    # What it copies may have the password of a keystore.
    assert copy.stat().st_mode & 0o777 == 0o600


def command_of(process: psutil.Process) -> str:
    try:
        command: Sequence[str] = process.cmdline()
    except psutil.Error:
        return ""
    return " ".join(command)


def test_environment_of_the_caller_changes_no_setting_of_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TS_CONFIG_FILE", "TS_MANAGEMENT_ADDRESS", "LOG_LOCATION", "METRICS_LOCATION"):
        monkeypatch.setenv(name, "/elsewhere")
    environment = server_environment(tmp_path, str(tmp_path / "temporary"))
    assert "/elsewhere" not in environment.values()
    assert not any(name.startswith("TS_") for name in environment)
    assert environment["LOG_LOCATION"] == str(tmp_path / "logs")
