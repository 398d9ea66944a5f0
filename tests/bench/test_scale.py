"""Building, reading and mixing take no memory that grows with the rows, measured on a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from bench.scale import GENUINE, MOST, plain, templated
from bench.workloads import data_folder


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
@pytest.mark.timeout(900)
def test_mixing_takes_some_numbers_of_each_row_and_not_the_row() -> None:
    """Twice as many rows: the 200,000 more of the mixture would take 300 MB and more if they were held."""
    small, large = (_measured(rows, "--mix")["mix"]["peak_mb"] for rows in (200_000, 400_000))
    assert large - small < 150


@pytest.mark.timeout(900)
def test_rows_of_genuine_templates_are_mixed_without_being_held() -> None:
    if not (data_folder() / GENUINE).is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    parts = _measured(20_000, "--rendered")
    assert {name: part["rows"] for name, part in parts.items()} == {
        "start": 0, "file of rows": 20_000, "render": 20_000, "read": 20_000, "mix": 20_000,
    }  # fmt: skip
    assert parts["mix"]["peak_mb"] < MOST
