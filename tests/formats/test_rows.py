"""Rows of every kind of file, and a sentence for every way a file can be wrong."""

from __future__ import annotations

import gzip
import json
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.errors import DataError, RunError, ShinanError
from shinan.formats.hub import dataset_name
from shinan.formats.rows import Row, fault, read_rows, write_rows

ROWS = [
    {"instruction": "Say hi.", "output": "hi"},
    {"instruction": '訳して\nください, "今"', "output": "a\r\nb\u2028c"},
]
ENDINGS = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path)]


def error_of(path: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return caught.value


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_kind_of_file_gives_the_rows_that_were_written(tmp_path: Path, ending: str, zipped: bool) -> None:
    path = tmp_path / f"rows{ending}"
    write_rows(path, ROWS)
    if zipped:
        path = put(tmp_path, f"rows{ending}.GZ", gzip.compress(path.read_bytes()))
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv"])
def test_text_files_are_what_the_standard_library_reads(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    write_rows(path, ROWS)
    text = path.read_bytes().decode()
    if ending == ".jsonl":
        assert [json.loads(line) for line in text.rstrip("\n").split("\n")] == ROWS
    elif ending == ".json":
        assert json.loads(text) == ROWS
    else:
        comma = "," if ending == ".csv" else "\t"
        assert text.startswith(f"instruction{comma}output\r\nSay hi.{comma}hi\r\n")


@pytest.mark.promise1
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ENDINGS), st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), min_size=1, max_size=5))
def test_writing_and_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[Row]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"identity{ending}"
    write_rows(path, rows)
    assert rows_of(path) == rows


def test_bom_crlf_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    jsonl = put(tmp_path, "a.jsonl", b'\xef\xbb\xbf\r\n{"a": "1"}\r\n\r\n  \r\n{"a": "2"}')
    assert [(str(where), where.row, row) for where, row in read_rows(jsonl)] == [
        (f"{jsonl}:2", 0, {"a": "1"}),
        (f"{jsonl}:5", 1, {"a": "2"}),
    ]
    assert rows_of(put(tmp_path, "a.json", b'\xef\xbb\xbf[\r\n{"a": "1"}]\r\n')) == [{"a": "1"}]
    assert rows_of(put(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n\r\n1,2\r\n\r\n")) == [{"a": "1", "b": "2"}]


def test_a_csv_row_is_found_at_the_line_where_it_begins(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", 'a,b\n"one\ntwo",x\n\n3,"y"\n')
    assert [(where.line, where.row) for where, _ in read_rows(path)] == [(2, 0), (5, 1)]


def test_rows_without_lines_are_found_by_position(tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", '{"version": 1, "data": [{"a": 1}, {"a": 2}]}')
    assert [(str(where), row) for where, row in read_rows(path)] == [(f"{path}#0", {"a": 1}), (f"{path}#1", {"a": 2})]


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"a": 1}\n{broken\n')
    assert next(read_rows(path))[1] == {"a": 1}


BAD_LINES = {
    '{"a": 1 "b": 2}': "not valid JSON at column 9: Expecting ',' delimiter",
    '{"a": 1} {"a": 2}': "not valid JSON at column 10: Extra data",
    '["a"]': "a row is an object with named fields, not a list",
    "3": "a row is an object with named fields, not a number",
    "null": "a row is an object with named fields, not null",
    '{"a": "\\ud83d"}': "not valid Unicode: half a surrogate pair, '\\ud83d', in '\\ud83d'",
    '{"a": {"b": ["x\\u0000y"]}}': "a NUL character, in 'x\\x00y'",
    '{"\\u0000": 1}': "a NUL character, in '\\x00'",
    '{"a": [{"k": 1, "b": 2, "k": 3}]}': "the key 'k' is given twice in one object",
    '{"a": NaN}': "NaN is not JSON",
    '{"a": [-Infinity]}': "-Infinity is not JSON",
    '{"a": 1e999}': "1e999 is too large a number",
    '{"a": ' + "7" * 5000 + "}": "not usable JSON: a number of too many digits",
    '{"a": ' + "[" * 100_000 + "}": "not usable JSON: nested too deeply",
}


@pytest.mark.promise10
@pytest.mark.parametrize(("line", "what"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_told_with_its_place(tmp_path: Path, line: str, what: str) -> None:
    path = put(tmp_path, "a.jsonl", f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n')
    error = error_of(path)
    assert (error.what, error.where) == (what, f"{path}:3")


def test_reading_goes_on_after_a_bad_line_if_asked_to(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'{"a": 1}\n{\n\xff\n{"a": 4}\n')
    problems: list[DataError] = []
    kept = [(where.row, row) for where, row in read_rows(path, refuse=problems.append)]
    assert kept == [(0, {"a": 1}), (3, {"a": 4})]
    assert [problem.where for problem in problems] == [f"{path}:2", f"{path}:3"]


BAD_FILES: dict[str, tuple[str, bytes, str, str]] = {
    "utf-8": ("a.jsonl", b'{"a": "\xe9"}', ":1", "not valid UTF-8: byte 0xe9 at column 8"),
    "utf-8 in json": ("a.json", b'[\n{"a": "\xe9"}]', ":2", "not valid UTF-8: byte 0xe9 at column 8"),
    "utf-8 in csv": ("a.csv", b"a,b\n1,2\n3,\x80\n", ":3", "not valid UTF-8: byte 0x80 at column 3"),
    "latin-1 in a header": ("a.csv", b"a,\xe9\n1,2\n", ":1", "not valid UTF-8: byte 0xe9 at column 3"),
    "utf-16": ("a.csv", "a,b".encode("utf-16-le"), ":1", "a NUL byte at column 2"),
    "nul": ("a.jsonl", b'{"a": "\0"}', ":1", "a NUL byte at column 8"),
    "json syntax": ("a.json", b'[{"a": 1},\n{"a" 2}]', ":2", "not valid JSON at column 6: Expecting ':' delimiter"),
    "json lines as json": ("a.json", b'{"a": 1}\n{"a": 2}', ":2", "not valid JSON at column 1: Extra data"),
    "json no list": (
        "a.json",
        b'{"rows": []}',
        ":1",
        'expected a list of rows or {"data": [...]}, not an object',
    ),
    "json two data": ("a.json", b'{"data": [], "data": []}', ":1", "the key 'data' is given twice in one object"),
    "json row": ("a.json", b'[{"a": 1}, {"a": 1, "a": 2}]', "#1", "the key 'a' is given twice in one object"),
    "empty": ("a.jsonl", b"", "", "there are no rows in it"),
    "empty json": ("a.json", b" \n", "", "there are no rows in it"),
    "empty list": ("a.json", b"[]", "", "there are no rows in it"),
    "header only": ("a.csv", b"a,b\n", "", "there are no rows in it"),
    "empty gz": ("a.jsonl.gz", b"", "", "there are no rows in it"),
    "csv too few": ("a.csv", b"a,b\n1,2\n3\n", ":3", "1 fields, but the header names 2"),
    "csv too many": ("a.csv", b"a,b\n1,2,3\n", ":2", "3 fields, but the header names 2"),
    "csv quote": ("a.csv", b'a,b\n1,2\n3,"x\ny', ":3", "not valid CSV: unexpected end of data"),
    "csv column": ("a.csv", b"a,,c\n1,2,3\n", ":1", "column 2 has no name"),
    "csv twice": ("a.csv", b"\na,b,a\n1,2,3\n", ":2", "two columns are named 'a'"),
    "csv field": ("a.csv", b"a\n" + b"x" * 200_000, ":2", "not valid CSV: field larger than field limit (131072)"),
    "not gz": ("a.csv.gz", b"a,b\n1,2\n", "", "cannot read it: Not a gzipped file (b'a,')"),
    "ending": ("a.txt", b"hello", "", "unknown kind of file '.txt'"),
    "no ending": ("rows", b"hello", "", "unknown kind of file ''"),
}


@pytest.mark.promise10
@pytest.mark.parametrize(("name", "content", "place", "what"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_gets_a_sentence(tmp_path: Path, name: str, content: bytes, place: str, what: str) -> None:
    path = put(tmp_path, name, content)
    error = error_of(path)
    assert (error.what, error.where) == (what, f"{path}{place}")


@pytest.mark.promise10
def test_broken_bytes_in_csv_cost_their_row_alone(tmp_path: Path) -> None:
    """Also in the second line of a row of two, and two of them in one row."""
    path = put(tmp_path, "a.csv", b'a,b\n1,x\n2,\xe9\n3,"y\n\xe9\xff\n\xe9"\n4,\0\n5,z\n')
    refused: list[DataError] = []
    rows = [(str(where), row["a"]) for where, row in read_rows(path, refused.append)]
    assert rows == [(f"{path}:2", "1"), (f"{path}:8", "5")]
    assert [(error.where, error.what) for error in refused] == [
        (f"{path}:3", "not valid UTF-8: byte 0xe9 at column 3"),
        (f"{path}:5", "not valid UTF-8: byte 0xe9 at column 1"),
        (f"{path}:7", "a NUL byte at column 3"),
    ]


@pytest.mark.promise10
def test_cut_files_get_a_sentence(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % i for i in range(5000)))
    error = error_of(put(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2]))
    assert error.what.startswith("cannot read it: Compressed file ended before")
    assert error.fix == "it may be damaged or cut: copy it again"
    path = tmp_path / "a.parquet"
    write_rows(path, ROWS)
    error = error_of(put(tmp_path, "b.parquet", path.read_bytes()[:-20]))
    assert error.what.startswith("cannot read it: Parquet magic bytes not found in footer")
    assert "\n" not in error.what
    assert "cannot read it" in error_of(put(tmp_path, "c.parquet", b"")).what


def test_parquet_keeps_numbers_and_refuses_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1, None], "turns": [[{"role": "user"}], []]}), path)
    assert rows_of(path) == [{"label": 1, "turns": [{"role": "user"}]}, {"label": None, "turns": []}]
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    assert error_of(path).what == "two columns have the same name"


@pytest.mark.promise10
def test_parquet_text_that_is_not_unicode_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"a": bad}), path)
    assert error_of(path).what.startswith("cannot read it: 'utf-8' codec can't decode byte 0xff")


@pytest.mark.promise10
def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    put(tmp_path, "train.jsonl", "")
    put(tmp_path, "trian.py", "")
    error = error_of(tmp_path / "trian.jsonl")
    assert (error.what, error.fix) == ("no such file", "did you mean 'train.jsonl'?")
    assert error_of(tmp_path / "x" / "a.jsonl").fix == f"there is no folder {tmp_path / 'x'} either"


@pytest.mark.promise10
def test_a_file_that_the_system_refuses_gets_a_sentence(tmp_path: Path) -> None:
    error = error_of(tmp_path / ("a" * 5000 + ".jsonl"))
    assert error.what.startswith("cannot read it: ")
    assert error.fix == "name a file that you may read"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    put(tmp_path, "b.csv.gz", "")
    put(tmp_path, "notes.md", "")
    error = error_of(tmp_path)
    assert (error.what, error.fix) == ("this is a folder, not a file", "name one file of it: b.csv.gz")


def test_the_nearest_ending_is_named(tmp_path: Path) -> None:
    assert error_of(put(tmp_path, "a.jsnl", "")).fix == "did you mean '.jsonl'?"


@pytest.mark.promise10
def test_writing_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown kind of file '\.gz'"):
        write_rows(tmp_path / "a.jsonl.gz", ROWS)
    with pytest.raises(DataError, match="holds plain text only, and 'messages' is a list"):
        write_rows(tmp_path / "a.csv", [{"messages": []}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_column_may_be_absent_from_a_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_rows(path, [{"a": "1"}, {"a": "2", "system": "s"}])
    nothing = "" if ending == ".csv" else None
    assert rows_of(path) == [{"a": "1", "system": nothing}, {"a": "2", "system": "s"}]


def test_fault_looks_everywhere_without_recursion() -> None:
    deep: Any = "\ud800"
    for _ in range(5000):
        deep = [deep]
    assert fault({"a": deep}).startswith("not valid Unicode: half a surrogate pair, '\\ud800'")
    assert fault({"a": ["é", None, 1.5, True, ("b",)]}) == ""


# ---- hub ----


def fake_datasets(load: Callable[..., Iterator[Row]]) -> types.ModuleType:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("ref", "called"),
    [
        ("hub:owner/name", ("owner/name", None, "train")),
        ("hub:owner/na.me:con-fig", ("owner/na.me", "con-fig", "train")),
        ("hub:owner/name/test", ("owner/name", None, "test")),
        ("hub:owner/name:config/test", ("owner/name", "config", "test")),
    ],
)
def test_a_hub_dataset_is_streamed(
    monkeypatch: pytest.MonkeyPatch, ref: str, called: tuple[str, str | None, str]
) -> None:
    assert dataset_name(ref) == ":".join(filter(None, called[:2]))  # a configuration is a dataset of its own
    calls = []

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[Row]:
        calls.append((name, config, split))
        assert streaming
        return iter([{"a": "1"}, {"a": "2"}])

    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load))
    assert [(str(where), row) for where, row in read_rows(ref)] == [(f"{ref}#0", {"a": "1"}), (f"{ref}#1", {"a": "2"})]
    assert calls == [called]


@pytest.mark.promise10
def test_hub_failures_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> Iterator[Row]:
        yield {"a": "1"}
        raise ConnectionError("no route")

    monkeypatch.delenv("SHINAN_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load))
    with pytest.raises(RunError, match=r"hub:o/n: cannot load the dataset: no route\n  do this: check the name"):
        list(read_rows("hub:o/n"))
    assert error_of("hub:name").what == "not a hub dataset"
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RunError, match=r"need the package `datasets`\n  do this: pip install 'shinan\[hub\]'"):
        list(read_rows("hub:o/n"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    with pytest.raises(RunError, match="SHINAN_OFFLINE forbids downloads"):
        list(read_rows("hub:o/n"))


# ---- fuzz ----


def drain(path: Path) -> None:
    """Read everything; anything but rows and ShinanErrors fails the test."""
    try:
        for _, row in read_rows(path, refuse=lambda error: None):
            assert isinstance(row, dict)
    except ShinanError as error:
        str(error).encode()


@pytest.mark.promise10
@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ENDINGS), st.booleans(), st.binary(max_size=200))
def test_arbitrary_bytes_give_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, ending: str, zipped: bool, content: bytes
) -> None:
    name = f"fuzz{ending}" + (".gz" if zipped else "")
    drain(put(tmp_path_factory.getbasetemp(), name, content))


@cache
def whole_file(folder: Path, ending: str) -> bytes:
    write_rows(folder / f"whole{ending}", ROWS)
    return (folder / f"whole{ending}").read_bytes()


@pytest.mark.promise10
@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ENDINGS), st.booleans(), st.data())
def test_damaged_files_give_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, ending: str, zipped: bool, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(whole_file(folder, ending))
    content = bytearray(gzip.compress(content, mtime=0)) if zipped else content
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    drain(put(folder, f"damaged{ending}" + (".gz" if zipped else ""), bytes(content[:cut] if cut % 2 else content)))


@pytest.mark.promise10
@settings(max_examples=50, deadline=None)
@given(st.text('{}[]",:\\u0dn 1e9-aN\n\r\t', max_size=60))
def test_nearly_json_gives_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for name in ("near.jsonl", "near.json", "near.csv"):
        drain(put(tmp_path_factory.getbasetemp(), name, text))
