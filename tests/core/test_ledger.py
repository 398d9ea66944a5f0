"""The ledger: nothing that was paid is lost, whoever writes at once, and whatever is killed."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.calls import Amount, Call, DeadLetter, Limit, Loss, Turn, ledger_json
from shinan.core.errors import RunError
from shinan.core.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


def call(key: str = "b2:1", **fields: object) -> Call:
    made = Call(
        key, "teacher", "r1", '{"prompt":"2 + 2?"}', '{"text":"4"}', 12, 3400, 2, 0.5, "mine", "2026-01-02T03:04:05Z"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def letter(key: str = "b2:1", **fields: object) -> DeadLetter:
    made = DeadLetter(key, "teacher", "r1", '{"prompt":"2 + 2?"}', "timeout", "nothing came", account="mine")
    return replace(made, **fields)  # type: ignore[arg-type]


def begin(ledger: Ledger, key: str, tokens: int = 10, limit: Limit = Limit(), account: str = "mine") -> Turn:  # noqa: B008
    return ledger.begin(key, model="teacher", account=account, reserve=Amount(tokens, 100 * tokens), limit=limit)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "ledger.sqlite")) as db:
        return db.execute(query).fetchall()


def balanced(path: Path) -> bool:
    """Whether each account is the sum of its calls and losses."""
    sums = "SELECT account, SUM(tokens), SUM(nanousd) FROM (SELECT account, tokens, nanousd FROM call UNION ALL "
    sums += "SELECT account, tokens, nanousd FROM lost) GROUP BY account"
    found = {row for row in rows(path, sums) if any(row[1:])}
    return found == {row for row in rows(path, "SELECT name, tokens, nanousd FROM account") if any(row[1:])}


@pytest.mark.promise2
def test_an_answer_is_found_by_whoever_opens_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record(call())()
    other = Ledger(tmp_path)
    assert other.find(["b2:1", "b2:2", "b2:1"]) == {"b2:1": call()}
    assert other.spent("mine") == Amount(12, 3400)
    other.close()


def test_the_first_answer_stays_and_what_the_second_cost_is_a_loss(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record(call())()
    ledger.record(call(response='{"text":"5"}', tokens=7, nanousd=1))()
    assert ledger.find(["b2:1"]) == {"b2:1": call()}
    assert [(loss.why, loss.used) for loss in ledger.losses()] == [("twice", Amount(7, 1))]
    assert balanced(tmp_path)


def test_a_failure_is_kept_until_there_is_an_answer(ledger: Ledger) -> None:
    ledger.bury(letter())()
    ledger.bury(letter(reason="server", error="the endpoint answered 500"))()
    assert ledger.find(["b2:1"]) == {"b2:1": letter(reason="server", error="the endpoint answered 500")}
    assert len(ledger.dead_letters()) == 1
    ledger.record(call())()
    assert ledger.find(["b2:1"]) == {"b2:1": call()}
    assert ledger.dead_letters() == []


def test_a_request_has_its_turn_once(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path)
    assert begin(ledger, "b2:1") is Turn.GO
    assert begin(ledger, "b2:1") is begin(other, "b2:1") is Turn.BUSY
    assert other.in_flight() == 1
    ledger.end("b2:1")
    assert begin(other, "b2:1") is Turn.GO
    other.record(call())()
    assert begin(ledger, "b2:1") is begin(other, "b2:1") is Turn.KNOWN
    assert ledger.in_flight() == 0
    other.close()


def test_an_attempt_that_may_have_been_paid_is_on_the_account(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger, "b2:1")
    ledger.end("b2:1")
    assert ledger.losses() == []
    begin(ledger, "b2:1")
    ledger.end("b2:1", Amount(10, 1000), "uncertain")
    ledger.end("b2:1", Amount(10, 1000), "uncertain")  # it is over already
    [loss] = ledger.losses()
    assert loss == Loss("b2:1", "uncertain", "teacher", "mine", Amount(10, 1000), loss.at)
    assert ledger.spent("mine") == Amount(10, 1000)
    assert balanced(tmp_path)


@pytest.mark.promise2
def test_a_budget_counts_what_is_spent_and_what_is_in_flight(ledger: Ledger) -> None:
    limit = Limit(tokens=30)
    assert [begin(ledger, f"b2:{n}", limit=limit) for n in range(4)] == [Turn.GO] * 3 + [Turn.FULL]
    ledger.record(call("b2:0", tokens=4, nanousd=0))()
    assert begin(ledger, "b2:3", limit=limit) is Turn.FULL  # 4 spent, 20 in flight, 10 more
    assert begin(ledger, "b2:3", 6, limit=limit) is Turn.GO
    assert begin(ledger, "b2:9", 27, limit=limit) is Turn.SPENT
    assert begin(ledger, "b2:9", 27, limit=limit, account="another") is Turn.GO
    assert begin(ledger, "b2:8", limit=Limit(nanousd=3399), account="mine") is Turn.FULL
    assert begin(ledger, "b2:8", limit=Limit(nanousd=999), account="mine") is Turn.SPENT


@given(
    limit=st.integers(0, 120),
    plan=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.sampled_from("rue")), max_size=25),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.promise2
def test_a_budget_is_never_exceeded_whatever_threads_do(
    tmp_path_factory: pytest.TempPathFactory, limit: int, plan: list[tuple[int, int, str]]
) -> None:
    """A plan says what each request reserves, what it takes of it, and how it ends: recorded, useless, for nothing."""
    place = tmp_path_factory.mktemp("ledger")
    ledger, other = Ledger(place), Ledger(place)
    seen: list[int] = []
    lock = threading.Lock()
    paid: list[int] = []

    def work(number: int) -> None:
        reserve, taken, end = plan[number]
        taken = min(taken, reserve)
        mine = (ledger, other)[number % 2]
        while (turn := begin(mine, f"b2:{number}", reserve, Limit(tokens=limit))) is Turn.FULL:
            time.sleep(0.001)
        if turn is not Turn.GO:
            assert turn is Turn.SPENT
            return
        seen.append(mine.spent("mine").tokens)
        with lock:
            paid.append(taken if end != "e" else 0)
        if end == "r":
            mine.record(call(f"b2:{number}", tokens=taken, nanousd=0))()
        else:
            mine.end(f"b2:{number}", Amount(taken if end == "u" else 0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(len(plan))))
    assert max([0, *seen]) <= limit
    assert sum(paid) == ledger.spent("mine").tokens <= limit
    assert balanced(place)
    assert ledger.in_flight() == 0
    ledger.close()
    other.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from shinan.core.calls import Amount, Call
from shinan.core.ledger import Ledger

ledger = Ledger(Path(sys.argv[1]))
for number in range(5):
    ledger.begin(f"b2:{number}", model="teacher", account="mine", reserve=Amount(10, 100))
ledger.record(Call("b2:0", "teacher", "", "{}", "{}", 3, 7, account="mine"))()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.promise2
def test_what_a_killed_process_had_in_flight_is_counted_once(ledger: Ledger, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ledger.in_flight() == 4
    assert begin(ledger, "b2:1") is Turn.BUSY  # until somebody sees that nobody waits for it
    other = Ledger(tmp_path)
    assert (ledger.bury_killed(), other.bury_killed()) == (0, 0)
    assert [(loss.key, loss.why, loss.used) for loss in ledger.losses()] == [
        (f"b2:{number}", "killed", Amount(10, 100)) for number in range(1, 5)
    ]
    assert ledger.spent("mine") == Amount(43, 407)
    assert ledger.find([f"b2:{n}" for n in range(5)]).keys() == {"b2:0"}
    assert begin(ledger, "b2:1") is Turn.GO
    other.close()
    assert sorted(path.name for path in (tmp_path / "ledger.sessions").iterdir()) == [ledger._session.name]


def test_the_living_are_not_buried(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger, "b2:1")
    other = Ledger(tmp_path)
    assert other.bury_killed() == 0
    assert begin(other, "b2:1") is Turn.BUSY
    other.close()
    assert ledger.in_flight() == 1


def test_spending_by_model_and_day(ledger: Ledger) -> None:
    ledger.record(call("b2:1"))()
    ledger.record(call("b2:2", at="2026-01-02T23:59:59Z"))()
    ledger.record(call("b2:3", model="judge", at="2026-01-03T00:00:00Z"))()
    ledger.bury(letter("b2:4", at="2026-01-02T00:00:00Z", tokens=99))()
    assert [(s.model, s.day, s.calls, s.dead, s.lost, s.used) for s in ledger.spend()] == [
        ("judge", "2026-01-03", 1, 0, 0, Amount(12, 3400)),
        ("teacher", "2026-01-02", 2, 1, 0, Amount(24, 6800)),
    ]


@pytest.mark.parametrize("text", ['say "so"\n\\', "指南車🧭", "a\ud800b", "100 %", "_", "\x00"])
def test_calls_are_found_by_the_text_they_hold_and_by_key(ledger: Ledger, text: str) -> None:
    ledger.record(call("b2:1", request=ledger_json({"prompt": f"x{text}y"})))()
    ledger.record(call("b2:2", response=ledger_json({"text": f"x{text}y"})))()
    ledger.record(call("b2:3"))()
    assert [found.key for found in ledger.search(text)] == ["b2:2", "b2:1"]
    assert [found.key for found in ledger.search(text, limit=1)] == ["b2:2"]
    assert [found.key for found in ledger.search("b2:3")] == ["b2:3"]


def test_threads_share_transactions(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    real = ledger._commit

    def counting(batch: Sequence[Any]) -> None:
        commits.append(len(batch))
        real(batch)

    def work(number: int) -> None:
        ledger.record(call(f"b2:{number}"))()

    monkeypatch.setattr(ledger, "_commit", counting)
    with ledger._lock:  # while it is taken, all the others queue up
        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        while len(ledger._waiting) < 16:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert commits == [16]
    assert len(rows(tmp_path, "SELECT key FROM call")) == 16


@pytest.mark.promise10
def test_a_ledger_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot use the ledger of calls.*\n  do this: set SHINAN_CACHE to a writable"):
        Ledger(tmp_path / "file")
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(RunError) as caught:
        Ledger(tmp_path)
    assert str(caught.value) == (
        f"{path}: cannot use the ledger of calls: file is not a database\n"
        "  do this: the file is damaged: keep it, it holds what was paid for, and set SHINAN_CACHE to another folder"
    )
    assert path.read_bytes() == b"no database " * 1000


@pytest.fixture
def flushes(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """How many calls and dead letters stood in the ledger, for other processes to see, at each flush of its log."""
    seen: list[object] = []

    def flush(file: int) -> None:
        assert Path(f"/proc/self/fd/{file}").readlink() == tmp_path / "ledger.sqlite-wal"
        [(count,)] = rows(tmp_path, "SELECT (SELECT COUNT(*) FROM call) + (SELECT COUNT(*) FROM dead)")
        seen.append(count)

    monkeypatch.setattr(os, "fsync", flush)
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="looks up in /proc which file is flushed")
def test_an_answer_is_on_the_disk_for_good(ledger: Ledger, flushes: list[object]) -> None:
    """Committed, then flushed. That a request goes out need not be."""
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    begin(ledger, "b2:1")
    assert flushes == []
    ledger.record(call())()
    assert flushes == [1]
    ledger.bury(letter("b2:2"))()
    assert flushes == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="looks up in /proc which file is flushed")
def test_answers_that_are_kept_together_are_flushed_together(
    ledger: Ledger, flushes: list[object], tmp_path: Path
) -> None:
    waits = [ledger.record(call(f"b2:{number}")) for number in range(3)]
    assert rows(tmp_path, "SELECT COUNT(*) FROM call") == [(0,)]
    begin(ledger, "b2:9")  # what goes out later than an answer came is noted with it, or after it
    assert rows(tmp_path, "SELECT COUNT(*) FROM call") == [(3,)]
    assert flushes == []
    for wait in waits:
        wait()
    assert flushes == [3]


def test_a_ledger_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute("PRAGMA user_version=7")
    Ledger(tmp_path).close()
    assert rows(tmp_path, "PRAGMA user_version") == [(7,)]


def test_a_session_leaves_nothing_behind(tmp_path: Path) -> None:
    stale = tmp_path / "ledger.sessions" / f"{os.getpid()}-0123"
    stale.parent.mkdir()
    stale.touch()
    Ledger(tmp_path).close()
    assert list(stale.parent.iterdir()) == []


def test_a_disk_that_cannot_flush_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot use the ledger of calls.*No space left"):
        ledger.record(call())()
    monkeypatch.undo()
    ledger.record(call("b2:2"))()
