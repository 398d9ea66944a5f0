"""`make promises` in small: what it prints, and that a broken promise makes it fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.promises import Ledger

ROOT = Path(__file__).parents[1]
TESTS = """\
import pytest

@pytest.mark.promise2
@pytest.mark.parametrize("n", [1, 2, 3])
def test_cases(n): assert n < LIMIT

@pytest.mark.promise2
@pytest.mark.promise4
def test_two_promises(): pytest.skip("not here")

@pytest.mark.promise9
def test_that_cannot_begin(nothing_of_that_name): pass

def test_of_nothing(): raise AssertionError
"""


def _promises(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "test_toy.py"
    path.write_text(text, "utf-8")
    command = [sys.executable, "-m", "tests.promises", "-c", "pyproject.toml", "-p", "no:cacheprovider", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_table_and_a_broken_promise(tmp_path: Path) -> None:
    done = _promises(tmp_path, TESTS.replace("LIMIT", "3"))
    assert done.returncode == 1
    shown = done.stdout[done.stdout.index("\n 1. ") :].splitlines()
    assert " 1. every row is accounted for: none yet" in shown
    start = shown.index(" 2. nothing paid is lost: 1 failed, 2 passed, 1 skipped")
    assert [line.split("::") for line in shown[start + 1 : start + 3]] == [
        ["    1 failed, 2 passed ", "test_cases"],
        ["    1 skipped    ", "test_two_promises"],
    ]
    assert " 4. what is trained is what is served: 1 skipped" in shown
    assert " 9. maths does not depend on layout: 1 failed" in shown
    assert not any("test_of_nothing" in line for line in shown)


def test_kept_promises_are_exit_status_0(tmp_path: Path) -> None:
    kept = TESTS.replace("LIMIT", "4").replace("nothing_of_that_name", "tmp_path")
    done = _promises(tmp_path, kept)
    assert done.returncode == 0
    assert " 2. nothing paid is lost: 3 passed, 1 skipped" in done.stdout


def test_pytest_can_keep_the_ledger_in_a_set() -> None:
    assert len({Ledger(), Ledger()}) == 2
