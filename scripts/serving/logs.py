"""What a server wrote: its log, and what tells why it or a worker did not start."""

import re
import time
from pathlib import Path

LAST_LINES = 15
# What the front end logs when a worker could not load its model.
FAILURE = re.compile(r"Load model failed: ([^,]+),")
# What a worker writes last when its handler refuses an archive.
REFUSAL = "W-[0-9]+-{model}_[^ ]* MODEL_LOG - (?:[a-z_]+\\.)*LoadError: (.+)"
# What the front end logs when a worker took longer to load than it may.
SLOW = (
    "W-[0-9]+-{model}_[^ ]* .* - Backend worker error\n"
    ".*Exception: Backend worker did not respond in given time"
)
# What stands between the front end's own words and what a worker wrote.
WORKER_MARK = "MODEL_LOG - "
# The front end may log that a worker ended before it has read what the worker wrote last.
REFUSAL_WITHIN_S, READ_EVERY_S = 3.0, 0.1


def log_path(folder: Path) -> Path:
    """Return the file that a server writes its log to, as log4j2.xml names it."""
    return folder / "logs" / "torchserve.log"


def output_path(folder: Path) -> Path:
    """Return the file that holds what TorchServe printed, which tells why it did not start."""
    return folder / "torchserve.out"


def find_failure(folder: Path) -> str | None:
    """Return which model could not be loaded, and why, where the log of a server says so.

    Waits some seconds for the reason, which may be logged after the failure.
    """
    failure = FAILURE.search(_read_log(folder))
    return f"{failure[1]}: {_why_not_loaded(folder, failure[1])}" if failure else None


def _why_not_loaded(folder: Path, model: str) -> str:
    refusal = re.compile(REFUSAL.format(model=re.escape(model)))
    until_s = time.monotonic() + REFUSAL_WITHIN_S
    while not (sentences := refusal.findall(_read_log(folder))) and time.monotonic() < until_s:
        time.sleep(READ_EVERY_S)
    if sentences:
        return str(sentences[-1])
    if re.search(SLOW.format(model=re.escape(model)), _read_log(folder)):
        return (
            "its worker took longer to load than startupTimeout in its YAML allows (120 s if it is "
            "missing)."
        )
    return f"its worker could not load it.\n{last_lines(folder)}"


def last_lines(folder: Path) -> str:
    """Return what the workers wrote last, which tells why they failed, else the server's end."""
    lines = (_read_log(folder) or _read(output_path(folder))).splitlines()
    written = [line.partition(WORKER_MARK)[2] for line in lines if WORKER_MARK in line]
    lines = written or lines
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])


def _read_log(folder: Path) -> str:
    return _read(log_path(folder))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
