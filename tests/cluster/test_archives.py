"""Archives in each of the archiver's formats, and files that are none."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.archives import MANIFEST, ArchiveError, BatchLimits, find_archives, open_archive
from support.archives import write_archive

# Enough for files to be damaged in.
WEIGHTS_BYTES = 400_000
# Lists a store as somebody who may not open each of its folders.
LIST = """
import os, pathlib
from cluster.archives import find_archives
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(10001)
    os.setuid(10001)
print(sorted(find_archives(pathlib.Path("."))))
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a model store with an archive in each format."""
    store = tmp_path / "store"
    folder = write_archive(store / "as_folder", batchSize=4, maxBatchDelay=30).folder
    shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    (tmp_path / "zipped.zip").rename(store / "zipped.mar")
    with tarfile.open(store / "tarred.tar.gz", "w:gz") as tarred:
        # As the archiver does it.
        tarred.add(folder, "small")
    with tarfile.open(store / "v1.0.tar.gz", "w:gz") as tarred:
        tarred.add(folder, ".")
    (store / "notes.txt").write_text("no archive")
    return store


def test_every_format_is_opened(store: Path, tmp_path: Path) -> None:
    found = find_archives(store)
    assert sorted(found) == ["as_folder", "tarred", "v1.0", "zipped"]
    for name, path in found.items():
        archive = open_archive(path, tmp_path / "unpacked")
        assert (archive.name, archive.version) == ("small", "2.1")
        assert archive.batch_limits == BatchLimits(4, 0.03)
        assert archive.response_timeout_s == 120
        assert (archive.folder / "small_handler.py").is_file()
        assert (archive.folder == path) == (name == "as_folder")


def test_store_may_be_an_archive_itself(store: Path) -> None:
    assert find_archives(store / "as_folder") == {"as_folder": store / "as_folder"}


def test_what_is_no_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.mar").write_bytes(b"no zip")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "broken.mar", tmp_path / "empty", tmp_path / "nothing.mar"):
        with pytest.raises(ArchiveError, match=rf"^{path.name}: expected "):
            open_archive(path, tmp_path / "unpacked")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zero(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(2_000) + content[middle + 2_000 :]


@pytest.mark.parametrize("damage", [cut, zero])
@pytest.mark.parametrize("suffix", [".mar", ".tar.gz"])
def test_damaged_archive_is_refused_in_a_sentence(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    folder = write_archive(tmp_path / "small").folder
    (folder / "weights.bin").write_bytes(os.urandom(WEIGHTS_BYTES))
    shutil.make_archive(str(tmp_path / "packed"), "gztar" if suffix == ".tar.gz" else "zip", folder)
    (packed,) = tmp_path.glob("packed.*")
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(damage(packed.read_bytes()))
    # A zip has its table of contents at the end.
    expected = "a .mar or .tar.gz, got another file" if (suffix, damage) == (".mar", cut) else None
    said = expected or "a whole archive, got a damaged one"
    with pytest.raises(ArchiveError, match=rf"^broken{suffix}: expected {said}\.$"):
        open_archive(broken, tmp_path / "unpacked")


def test_disk_that_is_full_is_told_as_that(tmp_path: Path) -> None:
    folder = write_archive(tmp_path / "small").folder
    (folder / "weights.bin").write_bytes(os.urandom(WEIGHTS_BYTES))
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    (tmp_path / "packed.zip").rename(tmp_path / "full.mar")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (WEIGHTS_BYTES // 4, hard))
    try:
        with pytest.raises(ArchiveError) as refused:
            open_archive(tmp_path / "full.mar", tmp_path / "unpacked")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (
        str(refused.value) == f"full.mar: expected to unpack it, got: {os.strerror(errno.EFBIG)}."
    )


@pytest.mark.parametrize(
    "manifest",
    [[1], {"model": [1]}, {"model": "small"}, 5, {"model": {"modelName": "a", "configFile": 5}}],
)
def test_manifest_that_is_another_json_is_refused_in_a_sentence(
    tmp_path: Path, manifest: Any
) -> None:
    folder = write_archive(tmp_path / "small").folder
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArchiveError, match=r"^small: expected an archive of TorchServe's\.$"):
        open_archive(folder, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", ": expected keys and values."),
        ("hello", ": expected keys and values."),
        ("a: [", ": expected YAML, got something else."),
        ("batchSize: many", ": batchSize: expected a number of at least 0, got 'many'."),
        ("maxBatchDelay: -1", ": maxBatchDelay: expected a number of at least 0, got -1."),
        (
            "responseTimeout: long",
            ": responseTimeout: expected a number of at least 0, got 'long'.",
        ),
        ("responseTimeout: .nan", ": responseTimeout: expected a number of at least 0, got nan."),
        ("responseTimeout: [1]", ": responseTimeout: expected a number of at least 0, got [1]."),
    ],
)
def test_yaml_that_is_wrong_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    folder = write_archive(tmp_path / "small").folder
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ArchiveError, match=f"^{re.escape(f'small.yaml{said}')}$"):
        open_archive(folder, tmp_path)


def test_folder_that_only_root_may_open_is_no_archive(store: Path) -> None:
    """As there is one on each volume of ext4, lost+found."""
    (store / "lost+found").mkdir(mode=0o000)
    store.chmod(0o755)
    listed = subprocess.run(
        [sys.executable, "-c", LIST],
        cwd=store,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = ["as_folder", "tarred", "v1.0", "zipped"]
    assert (listed.stdout.strip(), listed.stderr) == (str(found), "")


def test_tar_that_reaches_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tarred:
        tarred.add(tmp_path / "evil", "../../out")
    with pytest.raises(ArchiveError):
        open_archive(tmp_path / "evil.tar.gz", tmp_path / "unpacked" / "deep")
    assert not (tmp_path / "out").exists()
