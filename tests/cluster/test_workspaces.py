"""Folders of unpacked archives: removed once their processes are gone, and not before."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.workspaces import LEAST_AGE_S, LOCK, Workspace

# Prints a workspace, and works in it until it is killed.
PROCESS = """
import time
from cluster.workspaces import Workspace
workspace = Workspace()
print(workspace.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """Yield another process with a workspace in a temporary folder that is this one's, too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", PROCESS]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def old_workspace(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout
    path = Path(process.stdout.readline().strip())
    (path / "weights").write_bytes(b"weights")
    long_ago_s = time.time() - 2 * LEAST_AGE_S
    os.utime(path / LOCK, (long_ago_s, long_ago_s))
    return path


def test_workspace_of_a_killed_process_is_removed(other: "subprocess.Popen[str]") -> None:
    path = old_workspace(other)
    with closing(Workspace()) as own:
        assert (path / "weights").exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with closing(Workspace()):
            assert not path.exists()
            assert own.path.exists()
    assert not own.path.exists()


def test_what_may_not_be_locked_yet_is_left(other: "subprocess.Popen[str]") -> None:
    path = old_workspace(other)
    os.utime(path / LOCK)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with closing(Workspace()):
        assert path.exists()


def test_what_is_no_workspace_is_left(other: "subprocess.Popen[str]", tmp_path: Path) -> None:
    old_workspace(other)
    (tmp_path / "archive-of-mine").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    os.utime(elsewhere / LOCK, (0, 0))
    (tmp_path / "archive-link").symlink_to(elsewhere)
    with closing(Workspace()):
        assert (tmp_path / "archive-of-mine").is_dir()
        assert (elsewhere / LOCK).exists()
