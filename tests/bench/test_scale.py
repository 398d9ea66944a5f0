"""Building, reading and mixing take no memory that grows with the rows, measured on a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from bench.scale import plain, templated


def test_the_plain_rows_are_what_the_template_writes() -> None:
    assert list(plain(50)) == list(templated(50))


def _measured(rows: int, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.scale", "--rows", str(rows), "--no-save", *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {part["part"]: part for part in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(900)
def test_200_000_rows_are_never_in_memory_together() -> None:
    """Held, they took 309 MB more: a row is some fifteen objects, about 1.5 kB."""
    parts = _measured(200_000)
    assert parts["build"]["rows"] == parts["read"]["rows"] == 200_000
    assert parts["read"]["peak_mb"] - parts["start"]["peak_mb"] < 150


@pytest.mark.slow
def test_mixing_takes_some_numbers_of_each_row_and_not_the_row() -> None:
    """Twice as many rows: the 150,000 more of the mixture would take 200 MB and more if they were held."""
    small, large = (_measured(rows, "--mix")["mix"]["peak_mb"] for rows in (300_000, 600_000))
    assert large - small < 150
