"""The artefact index: a hint that many processes share and nobody needs."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from shinan.core.errors import RunError
from shinan.core.store import Store, cache_root, offline

_WRITER = """
import sys
from pathlib import Path
from shinan.core.store import Store

root, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
store = Store(root)
for i in range(40):
    store.record(f"shared {i}", root / name)
    store.record(f"{name} {i}", root / name)
    assert store.find(f"{name} {i}") == [(root / name).resolve()]
"""


def test_what_was_recorded_is_found_the_newest_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b", "a"):
        store.record("key", tmp_path / name)
    store.record("other", tmp_path / "c")
    assert store.find("key") == [tmp_path / "b", tmp_path / "a"]
    assert Store(tmp_path).find("other") == [tmp_path / "c"]
    assert store.find("none") == []


def test_folders_are_kept_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("cache"))
    store.record("key", Path("runs/a"))
    assert store.find("key") == [tmp_path / "runs" / "a"]


def test_writers_do_not_wait_for_readers(tmp_path: Path) -> None:
    Store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_processes_record_at_once_from_an_index_that_is_not_there_yet(tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "cache")]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in names
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, b"")
    store = Store(tmp_path / "cache")
    for i in range(40):
        assert {path.name for path in store.find(f"shared {i}")} == set(names)
        assert all(store.find(f"{name} {i}") for name in names)


def test_a_deleted_index_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record("key", tmp_path / "a")
    for path in tmp_path.glob("store.sqlite*"):
        path.unlink()
    assert store.find("key") == []
    (tmp_path / "store.sqlite").unlink()
    store.record("key", tmp_path / "b")
    assert Store(tmp_path).find("key") == [tmp_path / "b"]


def test_a_deleted_index_is_not_mended_from_its_journal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as reader:  # keeps the journal on the disk
        reader.execute("SELECT * FROM artefact").fetchall()
        store.record("key", tmp_path / "a")
        assert (tmp_path / "store.sqlite-wal").exists()
        (tmp_path / "store.sqlite").unlink()
        assert store.find("key") == []


def test_an_index_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    Store(tmp_path).record("key", tmp_path / "a")
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as db:
        db.execute("PRAGMA user_version=7")
    assert Store(tmp_path).find("key") == [tmp_path / "a"]
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (7,)


@pytest.mark.promise10
def test_a_damaged_index(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(RunError) as caught:
        Store(tmp_path)
    assert str(caught.value) == (
        f"{path}: cannot use the artefact index: file is not a database\n"
        "  do this: the file is damaged; delete it: it is only an index"
    )


@pytest.mark.promise10
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as caught:
        Store(tmp_path / "file")
    assert str(caught.value).endswith("File exists: '" + str(tmp_path / "file") + "'\n  do this: " + _CACHE)
    (tmp_path / "store.sqlite").mkdir()
    with pytest.raises(RunError, match=f"unable to open database file\n  do this: {_CACHE}"):
        Store(tmp_path)


def test_a_store_that_is_locked_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: real(path, timeout=0.01))
    with closing(real(tmp_path / "store.sqlite")) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert store.find("key") == []
        with pytest.raises(RunError, match="cannot use the artefact index: database is locked"):
            store.record("key", tmp_path / "a")


_CACHE = "set SHINAN_CACHE to a writable folder"


@pytest.mark.parametrize(
    ("chosen", "xdg", "expected"),
    [("/c", "/x", "/c"), ("~/c", "", "/home/me/c"), ("", "/x", "/x/shinan"), (None, None, "/home/me/.cache/shinan")],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, xdg: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("SHINAN_CACHE", chosen), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_root() == Path(expected)


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_whether_downloads_are_forbidden(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool) -> None:
    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("SHINAN_OFFLINE", value)
    assert offline() is expected
