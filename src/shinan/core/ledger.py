"""The ledger of model calls: what was asked, answered and paid, shared by all runs and processes (SQLite, WAL).

A call is kept under the hash of what was asked (model, declared revision, request, sample), not of where it was asked.
An answer is on the disk before anybody uses it (also for the day the power goes), so that nothing paid is lost and any
run can be replayed offline.

    call     answers
    dead     requests that got none, with the reason
    flight   requests that are out now; a process that dies leaves its own behind
    lost     what was or may have been paid for no answer: killed in flight, no reply in time, a reply of no use
    account  what each account has spent: the sum over its calls and losses

`<root>/ledger.sqlite` is the only copy of what was paid for: `shinan clean` does not touch it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

from shinan.core.calls import (
    NOTHING,
    UNLIMITED,
    Amount,
    Call,
    DeadLetter,
    Limit,
    Loss,
    Spend,
    Turn,
    Why,
    ledger_json,
    now,
)
from shinan.core.errors import RunError

T = TypeVar("T")

_TAKE_OFF = (
    "INSERT INTO flight SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM call WHERE key = ?1) "
    "AND NOT EXISTS (SELECT 1 FROM flight WHERE key = ?1)"
)


class Ledger:
    """The ledger in `<root>/ledger.sqlite`. Safe for threads and processes; not to be carried over a fork.

    All that wait to write at the same moment share one transaction: 64 threads cost little more than one.
    """

    _MIGRATIONS = (
        "CREATE TABLE call (key TEXT PRIMARY KEY, model TEXT NOT NULL, revision TEXT NOT NULL, request TEXT NOT NULL, "
        "response TEXT NOT NULL, tokens INTEGER NOT NULL, nanousd INTEGER NOT NULL, attempts INTEGER NOT NULL, "
        "seconds REAL NOT NULL, account TEXT NOT NULL, at TEXT NOT NULL)",
        "CREATE TABLE dead (key TEXT PRIMARY KEY, model TEXT NOT NULL, revision TEXT NOT NULL, request TEXT NOT NULL, "
        "reason TEXT NOT NULL, error TEXT NOT NULL, tokens INTEGER NOT NULL, nanousd INTEGER NOT NULL, "
        "attempts INTEGER NOT NULL, seconds REAL NOT NULL, account TEXT NOT NULL, at TEXT NOT NULL)",
        "CREATE TABLE flight (key TEXT PRIMARY KEY, model TEXT NOT NULL, account TEXT NOT NULL, "
        "tokens INTEGER NOT NULL, nanousd INTEGER NOT NULL, at TEXT NOT NULL, session TEXT NOT NULL)",
        "CREATE TABLE lost (key TEXT NOT NULL, why TEXT NOT NULL, model TEXT NOT NULL, account TEXT NOT NULL, "
        "tokens INTEGER NOT NULL, nanousd INTEGER NOT NULL, at TEXT NOT NULL)",
        "CREATE TABLE account (name TEXT PRIMARY KEY, tokens INTEGER NOT NULL, nanousd INTEGER NOT NULL)",
    )

    def __init__(self, root: Path) -> None:
        """Open (and create or migrate) the ledger. Raises RunError if it cannot be used."""
        self._path = root / "ledger.sqlite"
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._commits = self._flushed = 0
        self._out: set[str] = set()  # what this object has in flight, as far as memory knows
        self._waiting: deque[_Work] = deque()
        with self._told():
            root.mkdir(parents=True, exist_ok=True)
            self._session = _Session(root / "ledger.sessions")
            self._db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            self._migrate()
        self._end = weakref.finalize(self, _close, self._db, self._session)
        self.bury_killed()

    def close(self) -> None:
        """Give the file back; what was written stays. A ledger that is forgotten closes itself."""
        self._end()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            fix = "set SHINAN_CACHE to a writable folder"
            if "full" in str(error):
                fix = "free some space (`shinan clean` shows what can go); what the ledger holds is kept"
            elif not isinstance(error, OSError | sqlite3.OperationalError):
                fix = "the file is damaged: keep it, it holds what was paid for, and set SHINAN_CACHE to another folder"
            raise RunError(f"cannot use the ledger of calls: {error}", where=str(self._path), fix=fix) from error

    def _migrate(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # see `_flush`
        self._db.execute("BEGIN IMMEDIATE")
        done: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        for statement in self._MIGRATIONS[done:]:
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={max(done, len(self._MIGRATIONS))}")
        self._db.execute("COMMIT")

    # ---- writing: whoever holds the lock commits for all that wait ----

    def _submit(self, do: Callable[[sqlite3.Connection], T]) -> Callable[[], tuple[T, int]]:
        """Queue something to write, in a transaction with all that is queued: the next to wait for any of it commits.

        What is returned waits until the system has it (it then survives the end of the process, but not a loss of
        power) and tells the result and the number of the commit.
        """
        mine: Future[tuple[T, int]] = Future()
        self._waiting.append((do, mine))

        def wait() -> tuple[T, int]:
            with self._lock:
                if not mine.done():
                    self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
            with self._told():
                return mine.result()

        return wait

    def _write(self, do: Callable[[sqlite3.Connection], T]) -> T:
        return self._submit(do)()[0]

    def _commit(self, batch: Sequence[_Work]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = [do(self._db) for do, _ in batch]
            self._db.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  everybody who waits must hear of it
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            for _, told in batch:
                told.set_exception(error)
        else:
            self._commits += 1
            for (_, told), result in zip(batch, results, strict=True):
                told.set_result((result, self._commits))

    def _flush(self, commit: int) -> None:
        """Return when that commit is on the disk; one flush serves all commits before it.

        Not SQLite's own (`synchronous=FULL`): with that, nobody could commit while the disk is at work.
        """
        with self._flushing, self._told():
            if self._flushed >= commit:
                return
            reached = self._commits
            with suppress(FileNotFoundError):  # moved into the database by a checkpoint, which flushes
                log = os.open(f"{self._path}-wal", os.O_RDONLY)
                try:
                    os.fsync(log)
                finally:
                    os.close(log)
            self._flushed = reached

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._told():
            return self._db.execute(query, values).fetchall()

    # ---- one request's way through the ledger ----

    def find(self, keys: Iterable[str]) -> dict[str, Call | DeadLetter]:
        """What is known of these requests."""
        wanted = [json.dumps(list(keys))]
        dead = self._read("SELECT * FROM dead WHERE key IN (SELECT value FROM json_each(?))", wanted)
        calls = self._read("SELECT * FROM call WHERE key IN (SELECT value FROM json_each(?))", wanted)
        found: list[Call | DeadLetter] = [*starmap(DeadLetter, dead), *starmap(Call, calls)]
        return {entry.key: entry for entry in found}

    def begin(self, key: str, *, model: str, account: str, reserve: Amount, limit: Limit = UNLIMITED) -> Turn:
        """Ask to send a request: with GO, and only then, it is noted as in flight, with the most it can cost.

        What the account has spent, what it has in flight and `reserve` together never exceed `limit`, however many
        threads and processes ask at the same time.
        """

        flight = (key, model, account, *reserve, now(), self._session.name)

        def work(db: sqlite3.Connection) -> Turn:
            if limit == UNLIMITED and db.execute(_TAKE_OFF, flight).rowcount:  # one statement where no sum is needed
                self._out.add(key)
                return Turn.GO
            if db.execute("SELECT 1 FROM call WHERE key = ?", (key,)).fetchone():
                return Turn.KNOWN
            if key not in self._out:  # the disk was full when an earlier attempt ended: its flight is still noted
                _lose_flights(db, "uncertain", key=key, session=self._session.name)
            if db.execute("SELECT 1 FROM flight WHERE key = ?", (key,)).fetchone():
                return Turn.BUSY
            spent = _spent(db, account)
            if not limit.holds(spent, reserve):
                return Turn.SPENT
            held = db.execute("SELECT tokens, nanousd FROM flight WHERE account = ?", (account,)).fetchall()
            if not limit.holds(spent, reserve, *starmap(Amount, held)):
                return Turn.FULL
            db.execute("INSERT INTO flight VALUES (?, ?, ?, ?, ?, ?, ?)", flight)
            self._out.add(key)
            return Turn.GO

        return self._write(work)

    def end(self, key: str, used: Amount = NOTHING, why: Why = "useless") -> None:
        """Note that an attempt of this process is over and brought no answer; `used` is what it cost nevertheless.

        `why` is `uncertain` where nobody can know (no reply in time, a connection cut): `used` is then the reserve.
        """

        def work(db: sqlite3.Connection) -> None:
            for model, account in self._land(db, key):
                _lose(db, Loss(key, why, model, account, used, now()))

        self._finishing(key, work)()

    def record(self, call: Call) -> Callable[[], None]:
        """Keep an answer; the first answer to a request stays. What is returned waits until it is on the disk.

        Whoever writes next, in any thread, writes this first: what goes out later is noted later.
        """

        def work(db: sqlite3.Connection) -> None:
            self._land(db, call.key)
            insert = "INSERT OR IGNORE INTO call VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            if db.execute(insert, _row(call)).rowcount:
                _add(db, call.account, call.used)
            else:
                _lose(db, Loss(call.key, "twice", call.model, call.account, call.used, call.at))
            db.execute("DELETE FROM dead WHERE key = ?", (call.key,))

        return self._finishing(call.key, work)

    def bury(self, letter: DeadLetter) -> Callable[[], None]:
        """Keep a failure, as `record` keeps an answer; it replaces an earlier one of the same request. What attempts
        cost was told by `end`."""

        def work(db: sqlite3.Connection) -> None:
            self._land(db, letter.key)
            db.execute("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(letter))

        return self._finishing(letter.key, work)

    def _finishing(self, key: str, work: Callable[[sqlite3.Connection], None]) -> Callable[[], None]:
        """Write what ends a flight; what is returned waits until it is on the disk. Where that fails (a full disk), the
        next attempt makes a loss of the flight."""
        wait = self._submit(work)

        def finish() -> None:
            try:
                self._flush(wait()[1])
            except RunError:
                self._out.discard(key)
                raise

        return finish

    def _land(self, db: sqlite3.Connection, key: str) -> list[tuple[str, str]]:
        """Take a flight of this process off the list: [(model, account)], or nothing."""
        self._out.discard(key)
        query = "DELETE FROM flight WHERE key = ? AND session = ? RETURNING model, account"
        return db.execute(query, (key, self._session.name)).fetchall()

    def bury_killed(self) -> int:
        """Turn what dead processes left in flight into losses, at the price reserved. Returns how many there were."""

        def work(db: sqlite3.Connection) -> int:
            sessions = [name for (name,) in db.execute("SELECT DISTINCT session FROM flight").fetchall()]
            killed = [name for name in sessions if name != self._session.name and not self._session.lives(name)]
            return sum(_lose_flights(db, "killed", session=session) for session in killed)

        return self._write(work) if self.in_flight() else 0

    # ---- looking ----

    def spent(self, account: str) -> Amount:
        """What an account has spent so far, without what is in flight."""
        with self._lock, self._told():
            return _spent(self._db, account)

    def spend(self) -> list[Spend]:
        """All spending by model and day, the newest day first."""
        rows = self._read(
            "SELECT model, substr(at, 1, 10) AS day, SUM(what = 'call'), SUM(what = 'dead'), SUM(what = 'lost'), "
            "SUM(tokens), SUM(nanousd) FROM ("
            "SELECT 'call' AS what, model, at, tokens, nanousd FROM call UNION ALL "
            "SELECT 'dead', model, at, 0, 0 FROM dead UNION ALL "  # what it cost is among the losses
            "SELECT 'lost', model, at, tokens, nanousd FROM lost) GROUP BY model, day ORDER BY day DESC, model"
        )
        return [Spend(model, day, calls, dead, lost, Amount(*used)) for model, day, calls, dead, lost, *used in rows]

    def search(self, text: str, limit: int = 20) -> list[Call]:
        """The newest calls whose key begins with `text`, or whose request or response holds it."""
        query = (
            "SELECT * FROM call WHERE substr(key, 1, length(?1)) = ?1 OR instr(request, ?1) OR instr(response, ?1) "
            "ORDER BY rowid DESC LIMIT ?2"
        )
        return [*starmap(Call, self._read(query, (ledger_json(text)[1:-1], limit)))]

    def dead_letters(self) -> list[DeadLetter]:
        """All requests that got no answer, the newest first."""
        return [*starmap(DeadLetter, self._read("SELECT * FROM dead ORDER BY rowid DESC"))]

    def losses(self) -> list[Loss]:
        """What was paid, or perhaps paid, without an answer, in the order in which it was noted."""
        rows = self._read("SELECT key, why, model, account, at, tokens, nanousd FROM lost ORDER BY rowid")
        return [Loss(key, why, model, account, Amount(*used), at) for key, why, model, account, at, *used in rows]

    def in_flight(self) -> int:
        """How many requests are out, of all processes."""
        count: int = self._read("SELECT COUNT(*) FROM flight")[0][0]
        return count


_Work = tuple[Callable[[sqlite3.Connection], Any], Future[Any]]
"""Something to write, and who waits for it."""


class _Session:
    """One opened ledger. It lives as long as its file is locked: also a killed process gives the lock back."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("[0-9]*"):
            self.lives(path.name, folder)
        self.name = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._folder = folder
        self._file = os.open(folder / f".{self.name}", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        (folder / f".{self.name}").rename(folder / self.name)  # only now: nobody sees it unlocked

    def lives(self, name: str, folder: Path | None = None) -> bool:
        """Whether the session of that name still has its lock; the file of one that has not is removed."""
        path = (folder or self._folder) / name
        try:
            with path.open("r") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        """Give the lock back."""
        (self._folder / self.name).unlink(missing_ok=True)
        os.close(self._file)


def _close(db: sqlite3.Connection, session: _Session) -> None:
    db.close()
    session.close()


def _row(entry: Call | DeadLetter) -> list[Any]:
    """The columns of an entry (`dataclasses.astuple` also copies them, which takes longer than all the rest)."""
    return [getattr(entry, field.name) for field in fields(entry)]


def _spent(db: sqlite3.Connection, account: str) -> Amount:
    row = db.execute("SELECT tokens, nanousd FROM account WHERE name = ?", (account,)).fetchone()
    return Amount(*row) if row else NOTHING


def _add(db: sqlite3.Connection, account: str, used: Amount) -> None:
    db.execute(
        "INSERT INTO account VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET tokens = tokens + excluded.tokens, nanousd = nanousd + excluded.nanousd",
        (account, *used),
    )


def _lose(db: sqlite3.Connection, loss: Loss) -> None:
    """Note a loss on its account; a failure that cost nothing is none."""
    if loss.why == "killed" or any(loss.used):
        row = (loss.key, loss.why, loss.model, loss.account, *loss.used, loss.at)
        db.execute("INSERT INTO lost VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        _add(db, loss.account, loss.used)


def _lose_flights(db: sqlite3.Connection, why: Why, *, session: str, key: str | None = None) -> int:
    """Turn the flights of a session (or one of them) into losses at the price reserved; returns how many."""
    rows = db.execute(
        "DELETE FROM flight WHERE session = ?1 AND (?2 IS NULL OR key = ?2) "
        "RETURNING key, model, account, tokens, nanousd",
        (session, key),
    ).fetchall()
    for found, model, account, *reserve in rows:
        _lose(db, Loss(found, why, model, account, Amount(*reserve), now()))
    return len(rows)
