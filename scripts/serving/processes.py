"""Detached processes: start one, find it again, and end exactly that one."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from records import DamagedRecordError, Record, read_record
from serving.errors import ServerError

STOP_TIMEOUT_S = 20.0
# Where Linux says which boot of the machine this is.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


@contextmanager
def ended_on_failure(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Give when a process was started, and end its session where what follows fails."""
    started = process_start(process.pid)
    try:
        yield started
    except BaseException:
        end_processes(session_processes(process.pid, started), STOP_TIMEOUT_S)
        raise


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


def process_start(pid: int) -> str:
    """Return when a process was started, which stays the same when the clock is set.

    On Linux these are the id of the boot and the clock ticks from it, field 22 of /proc/PID/stat
    (proc(5)): psutil adds the time of the boot, which moves with the clock. Raises
    `psutil.NoSuchProcess`.
    """
    if not psutil.LINUX:
        return str(psutil.Process(pid).create_time())
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    # The second field is a name in parentheses, which may have spaces and parentheses itself.
    ticks = stat.rpartition(b")")[2].split()[19].decode()
    # Some sandboxes have no such file.
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    return f"{boot} {ticks}"


def session_processes(leader: int, started: str) -> list[psutil.Process]:
    """Return what is alive of a session, which may outlive its leader."""
    try:
        if process_start(leader) != started:
            return []
    except psutil.NoSuchProcess:
        pass
    return [process for process in psutil.process_iter() if _is_alive_in(process, leader)]


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def end_processes(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Ask processes to end, and kill those that have not within `timeout_s`.

    `KeyboardInterrupt` ends the waiting, and the processes all the same.
    """
    try:
        for process in processes:
            signal_quietly(process.terminate)
        psutil.wait_procs(processes, timeout=timeout_s)
    finally:
        for process in processes:
            signal_quietly(process.kill)
        psutil.wait_procs(processes)


def signal_quietly(send: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended."""
    try:
        send()
    except psutil.NoSuchProcess:
        return
