"""Files that are there as a whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bulk.errors import JobError
from bulk.storage import Location, open_location

# Writes half of a file, and is killed.
KILLED = """
import os, signal, sys
from bulk.storage import open_location

def write(path, files):
    with files.open_output_stream(path) as stream:
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

open_location(sys.argv[1]).write_by(write)
"""

# Tells whether it holds a lock, and waits to be killed.
HOLDER = """
import sys, time
from bulk.storage import open_location

with open_location(sys.argv[1]).lock() as held:
    print(held, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_leaves_is_no_file(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / "a.parquet"))
    location.write(b"whole")
    subprocess.run([sys.executable, "-c", KILLED, location.path], check=False)
    folder = open_location(str(tmp_path))
    # What somebody keeps there is not a writer's.
    kept = {".env.local", ".gitlab-ci.yml", "a.parquet"}
    for name in kept - {"a.parquet"}:
        (tmp_path / name).write_text("mine")
    assert location.read() == b"whole"
    assert folder.names() == ["a.parquet"]
    assert len(list(tmp_path.iterdir())) == 4
    folder.remove_unfinished()
    assert {each.name for each in tmp_path.iterdir()} == kept


def test_longest_name_that_there_may_be_is_written(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / ("\u5b57" * 84 + ".c")))
    location.write(b"whole")
    assert location.read() == b"whole"


def test_name_that_is_not_utf8_is_left_out_and_told(tmp_path: Path) -> None:
    for name in ("good.wav", os.fsdecode(b"caf\xe9.wav")):
        (tmp_path / name).write_bytes(b"1")
    told: list[str] = []
    (files,) = open_location(str(tmp_path)).walk(told.append)
    assert [each.base_name for each in files] == ["good.wav"]
    assert told == ["not named in UTF-8"]


def test_links_to_folders_above_are_left_out(tmp_path: Path) -> None:
    for name in ("one/a.wav", "two/b.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "one" / "up").symlink_to("..")
    (tmp_path / "one" / "two").symlink_to("../two")
    (tmp_path / "two" / "one").symlink_to("../one")
    told: list[str] = []
    walked = open_location(str(tmp_path)).walk(told.append)
    found = [os.path.relpath(each.path, tmp_path) for files in walked for each in files]
    # Other folders are under each of their names.
    assert sorted(found) == ["one/a.wav", "one/two/b.wav", "two/b.wav", "two/one/a.wav"]
    assert set(told) == {"linked to a folder above"}


def test_lock_is_of_one_and_goes_with_its_process(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / "lock"))
    command = [sys.executable, "-c", HOLDER, location.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"True\n"
            with location.lock() as held:
                assert not held
        finally:
            holder.kill()
    with location.lock() as held, location.lock() as again:
        assert (held, again) == (True, False)
    with Location(SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "lock").lock() as held:
        assert held


def test_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(path: str, files: LocalFileSystem) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        open_location(str(tmp_path / "a")).write_by(write)
    assert list(tmp_path.iterdir()) == []


def test_other_file_systems_write_by_themselves(tmp_path: Path) -> None:
    files = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    Location(files, "a").write(b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert [each.path for each in next(iter(Location(files, "").walk(print)))] == ["a"]


def test_paths_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "a b.wav").write_bytes(b"1")
    here, address = open_location(str(tmp_path)), open_location(tmp_path.as_uri())
    assert here.path == address.path == str(tmp_path)
    assert here.resolve(f"{tmp_path}/a b.wav").read() == b"1"
    assert here.resolve(f"file://{tmp_path}/a b.wav").read() == b"1"
    assert open_location(f"{tmp_path.as_uri()}/talk #1.wav").path == f"{tmp_path}/talk #1.wav"
    bucket = open_location("s3://bucket/some/folder?region=eu-west-1")
    assert (bucket.files.type_name, bucket.path) == ("s3", "bucket/some/folder")
    assert (bucket / "a").path == "bucket/some/folder/a"
    assert open_location("gs://anonymous@bucket/a").files.type_name == "gcs"
    with pytest.raises(JobError, match=r"s3://bucket/folder"):
        open_location("ftp://host/folder")
