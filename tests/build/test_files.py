"""Rows from a user's file: read through `formats`, with what the recipe says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shinan.build.files import file
from shinan.core.errors import ConfigError, DataError
from shinan.core.registry import bind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(20)]
    made = tmp_path / "numbers.jsonl"
    made.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return made


def test_rows_come_in_the_files_order_and_say_where_they_come_from(path: Path) -> None:
    rows = file(0, path=str(path), licence="CC-BY-4.0", maker="human", task="numbers")
    assert [row.reply for row in rows] == [str(n) for n in range(20)]
    assert rows[3].row == f"{path}#3"
    assert (rows[3].provenance.licence, rows[3].provenance.maker, rows[3].task) == ("CC-BY-4.0", "human", "numbers")


def test_a_limit_draws_by_seed_and_keeps_the_order(path: Path) -> None:
    drawn = [[row.provenance.row for row in file(seed, path=str(path), limit=6)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) == 6
    assert drawn[0] != [0, 1, 2, 3, 4, 5]
    assert len(file(1, path=str(path), limit=99)) == 20


@pytest.mark.promise10
def test_a_mistyped_shape_or_path_is_told_with_the_nearest(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no shape is named 'alpacca'\n  do this: did you mean 'alpaca'\?"):
        file(0, path=str(path), shape="alpacca")
    with pytest.raises(DataError, match=r"number\.jsonl: no such file\n  do this: did you mean 'numbers\.jsonl'\?"):
        file(0, path=str(path.with_name("number.jsonl")))


@pytest.mark.promise10
def test_a_row_of_another_shape_is_told_with_its_line(path: Path) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"instruction": "Say 20."}\n')
    with pytest.raises(DataError, match=r"numbers\.jsonl:21: a row of shape alpaca"):
        file(0, path=str(path))


def test_a_recipe_must_name_the_path() -> None:
    with pytest.raises(ConfigError, match="'path' is missing"):
        bind("build", "file", {}, where="recipe.yaml:4")
