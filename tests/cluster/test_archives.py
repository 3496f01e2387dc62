"""Archives in each of the archiver's formats, and files that are none."""

import shutil
import tarfile
from pathlib import Path

import pytest

from cluster.archives import ArchiveError, BatchLimits, find_archives, open_archive
from support.archives import write_archive


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


def test_tar_that_reaches_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tarred:
        tarred.add(tmp_path / "evil", "../../out")
    with pytest.raises(ArchiveError):
        open_archive(tmp_path / "evil.tar.gz", tmp_path / "unpacked" / "deep")
    assert not (tmp_path / "out").exists()
