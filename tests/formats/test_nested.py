"""Rows inside rows: each inner row knows what is around it, and what has no inner rows is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.formats import read_rows
from shinan.formats.nested import flatten
from shinan.formats.rows import Where

SQUAD = [
    {
        "title": "Rain",
        "paragraphs": [
            {"context": "It rains.", "qas": [{"id": "a", "question": "Why?"}, {"id": "b", "question": "When?"}]},
            {"context": "It is dry.", "qas": []},
        ],
    },
    {
        "title": "Sun",
        "paragraphs": [{"context": "It shines.", "qas": [{"id": "c", "question": "Where?", "title": "T"}]}],
    },
]


def flat(rows: list[Any], path: str) -> tuple[list[tuple[str, dict[str, Any]]], list[DataError]]:
    refused: list[DataError] = []
    placed = ((Where("f", number), row) for number, row in enumerate(rows))
    return [(str(where), row) for where, row in flatten(placed, path, refused.append)], refused


def test_questions_know_their_paragraph_and_their_article() -> None:
    rows, refused = flat(SQUAD, "paragraphs.qas")
    assert rows == [
        ("f#0", {"title": "Rain", "context": "It rains.", "id": "a", "question": "Why?"}),
        ("f#1", {"title": "Rain", "context": "It rains.", "id": "b", "question": "When?"}),
        ("f#2", {"title": "T", "context": "It shines.", "id": "c", "question": "Where?"}),
    ]
    assert not refused


@pytest.mark.promise10
def test_an_article_without_paragraphs_is_refused_and_the_others_are_read() -> None:
    rows, refused = flat([{"title": "x", "paragraph": []}, {"paragraphs": [{"qas": 3}]}, *SQUAD], "paragraphs.qas")
    assert [where for where, _ in rows] == ["f#2", "f#3", "f#4"]  # a refused row keeps its number
    assert [str(error) for error in refused] == [
        "f#0: 'paragraphs' of the path 'paragraphs.qas' is missing, not a list of rows\n"
        "  do this: did you mean 'paragraph'?",
        "f#1: 'qas' of the path 'paragraphs.qas' is a number, not a list of rows\n  do this: did you mean 'qas'?",
    ]


@given(st.lists(st.lists(st.lists(st.integers(), max_size=3), max_size=3), max_size=4))
def test_every_inner_row_comes_once_and_in_order(values: list[list[list[int]]]) -> None:
    nested = [{"a": [{"b": [{"c": value} for value in inner]} for inner in middle]} for middle in values]
    rows, refused = flat(nested, "a.b")
    assert [row["c"] for _, row in rows] == [value for middle in values for inner in middle for value in inner]
    assert [where for where, _ in rows] == [f"f#{number}" for number in range(len(rows))]
    assert not refused


def test_json_lines_under_another_name_are_read_when_it_is_said(tmp_path: Path) -> None:
    text = "".join(json.dumps({"n": n}) + "\n" for n in range(3))
    for name, content in (("a.json", text.encode()), ("a.json.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        rows = list(read_rows(tmp_path / name, ending=".jsonl"))
        assert [row for _, row in rows] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert str(rows[2][0]) == f"{tmp_path / name}:3"
        with pytest.raises(DataError, match="Extra data"):
            list(read_rows(tmp_path / name))
    with pytest.raises(DataError, match=r"unknown kind of file '.jsonn'\n  do this: did you mean '.json"):
        list(read_rows(tmp_path / "a.json", ending=".jsonn"))
