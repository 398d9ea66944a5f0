"""The index of finished artefacts: key -> folder, shared by all runs (SQLite, WAL).

A stage that another run has already done, with the same key, is linked into this run instead of done again.
The index is only a hint: what it names is believed after its own manifest has been read, so it may be deleted any time.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
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

    _MIGRATIONS = ("CREATE TABLE artefact (key TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (key, folder)) STRICT",)

    def __init__(self, root: Path) -> None:
        """Open (and create or migrate) the index. Raises RunError if the folder cannot be written."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._path = root / "store.sqlite"
            with closing(self._connect()) as db, db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("BEGIN IMMEDIATE")
                done = db.execute("PRAGMA user_version").fetchone()[0]
                for statement in self._MIGRATIONS[done:]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={len(self._MIGRATIONS)}")
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"cannot open the artefact index: {error}",
                where=str(root),
                fix="set SHINAN_CACHE to a writable folder",
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)

    def record(self, key: str, folder: Path) -> None:
        """Remember that `folder` holds the artefact of `key`."""
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO artefact VALUES (?, ?)", (key, str(folder.resolve())))

    def find(self, key: str) -> list[Path]:
        """Folders said to hold the artefact; the caller checks their manifests."""
        with closing(self._connect()) as db:
            rows = db.execute("SELECT folder FROM artefact WHERE key = ? ORDER BY rowid DESC", (key,))
            return [Path(folder) for (folder,) in rows]
