"""Jobs whose recordings are in an object store, on a Ray that runs already."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import LocalFileSystem, copy_files

from bulk.storage import Location, open_location
from repository import ROOT
from serving.configuration import free_port
from support.recordings import transcribe_alone
from support.waiting import until
from trials.bulk_runs import finish, read_output, start, write_recordings

BUCKET = "speech"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the end of addresses in an object store with an empty bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    at = f"?scheme=http&region=us-east-1&endpoint_override={quote(f'{host}:{port}')}"
    try:
        open_location(f"s3://{BUCKET}/{at}&allow_bucket_creation=true").make()
        yield at
    finally:
        server.stop()


@pytest.fixture
def ray_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a Ray that somebody else started on this machine."""
    # What whoever runs it tells its nodes and users.
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": str(ROOT)}
    for name, value in {**environment, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    words = ["--head", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    said = tmp_path / "ray.log"
    # Its sockets have long names, for which tmp_path leaves no room.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, said.open("wb") as log:
        # Without a range of their own, workers have 10,002 to 19,999, where the port may be, too.
        words += ["--min-worker-port", "0", "--max-worker-port", "0", "--temp-dir", folder]
        command = [ray, "start", "--block", *words]
        with killed_afterwards(subprocess.Popen(command, stdout=log, stderr=log)):
            until(lambda: "Ray runtime started" in said.read_text())
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            yield os.environ["RAY_ADDRESS"]


@contextmanager
def killed_afterwards(head: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill a process and its own at the end: Ray would wait for half a minute."""
    try:
        yield
    finally:
        for process in psutil.Process(head.pid).children(recursive=True):
            process.kill()
        head.kill()
        head.wait()


def upload(folder: Path, location: Location) -> None:
    copy_files(str(folder), location.path, LocalFileSystem(), location.files)


def test_recordings_of_an_object_store_are_answered_by_a_ray_that_runs(
    model_store: Path,
    unpacked: Callable[[str], Path],
    tmp_path: Path,
    store: str,
    ray_address: str,
) -> None:
    write_recordings(tmp_path / "in", 70)
    source, output = (
        open_location(f"s3://{BUCKET}/in{store}"),
        open_location(f"s3://{BUCKET}/out{store}"),
    )
    upload(tmp_path / "in", source)
    options = ("--workers", "2", "--archive", f"{model_store}/wav2vec2.mar")

    def run() -> list[dict[str, Any]]:
        addresses = f"s3://{BUCKET}/in{store}", f"s3://{BUCKET}/out{store}"
        process = start("transcribe", *addresses, *options, log=tmp_path / "log")
        assert finish(process) == 0, (tmp_path / "log").read_text()
        return read_output(output)

    rows = run()
    assert len(rows) == 70
    heard = {row["id"]: row["text"] for row in rows if not row["error"]}
    assert heard == transcribe_alone(unpacked("wav2vec2"), tmp_path / "in")
    written = {name: (output / name).info().mtime_ns for name in output.names()}
    write_recordings(tmp_path / "more", 1, seed=2)
    upload(tmp_path / "more" / "00", source / "more")
    again = run()
    assert [row["id"] for row in again] == sorted([*(row["id"] for row in rows), "more/00000.wav"])
    for name, time_ns in written.items():
        assert (output / name).info().mtime_ns == time_ns, "was recognised again"


def test_ray_that_is_not_there_is_a_sentence(
    model_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    (tmp_path / "texts.csv").write_text("text\nx\n")
    archive = f"{model_store}/bert_seq_classification.mar"
    process = start("annotate", tmp_path / "texts.csv", tmp_path / "out", "--archive", archive)
    assert finish(process) == 1
    said = (tmp_path / "out.log").read_text().splitlines()
    assert said[-1].startswith("error: Expected a Ray at RAY_ADDRESS=127.0.0.1:")
    assert "Traceback" not in said
