"""The index of finished artefacts: key -> folder, shared by all runs (SQLite, WAL).

A stage that another run has already done, with the same key, is linked into this run instead of done again.
The index is only a hint: what it names is believed after its own manifest has been read, so it may be deleted any time.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from shinan.core.errors import RunError


def cache_root() -> Path:
    """`SHINAN_CACHE`, else `$XDG_CACHE_HOME/shinan`, else `~/.cache/shinan`."""
    if chosen := os.environ.get("SHINAN_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shinan"


def offline() -> bool:
    """Whether `SHINAN_OFFLINE` forbids every download."""
    return os.environ.get("SHINAN_OFFLINE", "") not in ("", "0")


class Store:
    """The artefact index in `<root>/store.sqlite`."""

    _MIGRATIONS = ("CREATE TABLE artefact (key TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (key, folder))",)

    def __init__(self, root: Path) -> None:
        """Open (and create or migrate) the index. Raises RunError if the folder cannot be written."""
        self._path = root / "store.sqlite"
        with self._open():
            pass

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection and a transaction; an index that was deleted in the meantime is made anew."""
        fix = "set SHINAN_CACHE to a writable folder"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=30)) as db:
                self._migrate(db)
                with db:
                    yield db
        except (OSError, sqlite3.Error) as error:
            if not isinstance(error, OSError | sqlite3.OperationalError):
                fix = "the file is damaged; delete it: it is only an index"
            raise RunError(f"cannot use the artefact index: {error}", where=str(self._path), fix=fix) from error

    def _migrate(self, db: sqlite3.Connection) -> None:
        if _version(db) >= len(self._MIGRATIONS):
            return
        with db:
            db.execute("BEGIN IMMEDIATE")
            for statement in self._MIGRATIONS[_version(db) :]:  # read again: another process may have been faster
                db.execute(statement)
            db.execute(f"PRAGMA user_version={len(self._MIGRATIONS)}")
        with suppress(sqlite3.OperationalError):  # SQLite won't wait here for others who switch at the same moment
            db.execute("PRAGMA journal_mode=WAL")

    def record(self, key: str, folder: Path) -> None:
        """Remember that `folder` holds the artefact of `key`."""
        with self._open() as db:
            db.execute("INSERT OR IGNORE INTO artefact VALUES (?, ?)", (key, str(folder.resolve())))

    def find(self, key: str) -> list[Path]:
        """Folders said to hold the artefact, the newest first; the caller checks their manifests."""
        with self._open() as db:
            rows = db.execute("SELECT folder FROM artefact WHERE key = ? ORDER BY rowid DESC", (key,))
            return [Path(folder) for (folder,) in rows]


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version
