"""Files of rows: every kind of data file read as one stream of (where, row), and written back.

A row is a dict of plain values. Text files are UTF-8, with or without a byte-order mark, LF or CRLF; blank lines are
skipped. Text that cannot be trained on (NUL, half a surrogate pair) and JSON that readers disagree on (a key given
twice, NaN) are refused, never repaired.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from shinan.core.dataset import write_atomic
from shinan.core.errors import DataError, nearest, shown
from shinan.formats.hub import hub_rows

T = TypeVar("T")
Row = dict[str, Any]
_Read = Iterator[tuple[int | None, Any]]  # (line, parsed value or _MalformedError)

_UTF8_BOM = b"\xef\xbb\xbf"
_BATCH = 1024  # rows of a Parquet file held as Python objects at a time
_BLOCK = 1 << 20
# Longer ones are no rows, and one megabyte of a .gz file may hold a thousand of them.
_LONGEST_LINE = 1 << 28
_LARGEST_WHOLE = 1 << 31  # bytes of a file that is read whole


@dataclass(frozen=True, slots=True)
class Where:
    """A row's place: `file:line` in files with lines, else `file#row`, as in `Example.row`.

    Attributes:
        source: the file or dataset as given.
        row: position of the row, counted from 0; blank lines are no rows.
        line: line on which the row begins, counted from 1.
    """

    source: str
    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else f"{self.source}#{self.row}"


class _MalformedError(ValueError):
    """A line, or a whole file, that cannot be parsed. `line` counts from 1."""

    def __init__(self, what: str, fix: str = "correct it there, or take it out", line: int = 1) -> None:
        super().__init__(what)
        self.what, self.fix, self.line = what, fix, line


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in a parsed value for a piece of JSON that is not accepted."""

    what: str


def _raise(error: DataError) -> None:
    raise error


def read_rows(
    path: str | Path, refuse: Callable[[DataError], None] = _raise, *, ending: str = ""
) -> Iterator[tuple[Where, Row]]:
    """The rows of a file, each with its place, read as they are asked for (a .json file is read whole).

    Args:
        path: a .jsonl, .json (a list, or `{"data": [...]}`), .csv, .tsv or .parquet file, each also with .gz; or a
            hub dataset, `hub:OWNER/NAME[:CONFIG][/SPLIT]` (split `train` unless said).
        refuse: called with the error of each row that cannot be used, and reading goes on. The default raises it.
        ending: read the file as if its name ended so, `.jsonl` for one.

    Raises:
        DataError: a file that is missing, empty, damaged or of an unknown kind, or a row that cannot be used.
        RunError: a hub dataset that cannot be loaded.
    """
    name = str(path)
    if name.startswith("hub:"):
        yield from _checked(name, ((None, row) for row in hub_rows(name)), refuse)
        return
    try:
        reader = _reader(Path(path), ending)
        with _open(Path(path)) as stream:
            yield from _checked(name, reader(stream), refuse)
    except _MalformedError as bad:
        raise DataError(bad.what, where=f"{name}:{bad.line}", fix=bad.fix) from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        refused = isinstance(error, OSError) and error.errno is not None
        fix = "name a file that you may read" if refused else "it may be damaged or cut: copy it again"
        what = str(error).partition("\n")[0]
        raise DataError(f"cannot read it: {what}", where=name, fix=fix) from error


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _reader(path: Path, ending: str) -> Callable[[io.BufferedIOBase], _Read]:
    """The reader for the file's ending. Raises DataError if the file is not there or of an unknown kind."""
    if path.is_dir():
        readable = _readable(path)
        fix = "name one file" + (f" of it: {', '.join(readable[:12])}" if readable else "")
        raise DataError("this is a folder, not a file", where=str(path), fix=fix)
    if not path.exists():
        fix = f"there is no folder {path.parent} either"
        if path.parent.is_dir():
            fix = nearest(path.name, _readable(path.parent)) or "check the name"
        raise DataError("no such file", where=str(path), fix=fix)
    return _of_kind(ending or _ending(path), _READERS, path)


def _readable(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if _ending(entry) in _READERS and entry.is_file())


def _of_kind(ending: str, table: Mapping[str, T], path: Path) -> T:
    if ending not in table:
        raise DataError(f"unknown kind of file {ending!r}", where=str(path), fix=nearest(ending, table))
    return table[ending]


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _checked(name: str, read: _Read, refuse: Callable[[DataError], None]) -> Iterator[tuple[Where, Row]]:
    """Number the rows, and refuse what is not a row of clean values. Raises DataError if there was none at all."""
    count = 0
    for line, value in read:
        where = Where(name, count, line)
        count += 1
        if isinstance(value, _MalformedError):
            refuse(DataError(value.what, where=str(where), fix=value.fix))
        elif problem := fault(value):
            refuse(DataError(problem, where=str(where), fix="correct this row or take it out"))
        elif not isinstance(value, dict):
            fix = 'write it like {"instruction": "...", "output": "..."}'
            refuse(DataError(f"a row is an object with named fields, not {kind(value)}", where=str(where), fix=fix))
        else:
            yield where, value
    if not count:
        raise DataError("there are no rows in it", where=name, fix="name a file that has rows")


def fault(value: Any) -> str:
    """What keeps a value (keys and nested values too) from being used as data; empty if nothing does."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if problem := _text_fault(item):
                return problem
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, _Refused):
            return item.what
    return ""


def _text_fault(text: str) -> str:
    if "\0" in text:
        return f"a NUL character, in {text[:40]!r}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not valid Unicode: half a surrogate pair, {text[error.start]!r}, in {text[:40]!r}"
    return ""


def kind(value: Any) -> str:
    """What a value is, in JSON's words: `text`, `a number`, `a list`, ..."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {str: "text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
        if (nul := text.find("\0")) < 0:
            return text
        start, what = len(text[:nul].encode()), "a NUL byte"
    except UnicodeDecodeError as error:
        start, what = error.start, f"not valid UTF-8: byte 0x{data[error.start]:02x}"
    line, column = data.count(b"\n", 0, start) + 1, start - data.rfind(b"\n", 0, start)
    raise _MalformedError(f"{what} at column {column}", "save the file as UTF-8 text (it may be UTF-16)", line)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Refused:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
    return _Refused(f"the key {twice[:40]!r} is given twice in one object")


def _number(text: str) -> float | _Refused:
    value = float(text)
    return value if math.isfinite(value) else _Refused(f"{text[:40]} is too large a number")


DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_float=_number, parse_constant=lambda name: _Refused(f"{name} is not JSON")
)
"""JSON as it is read here: what is not accepted stays in the value, where `fault` finds it."""


def _parse(data: bytes) -> Any:
    try:
        return DECODER.decode(_decode(data))
    except json.JSONDecodeError as error:
        bad = _MalformedError(f"not valid JSON at column {error.colno}: {error.msg}", line=error.lineno)
        if "Extra" in error.msg:
            bad.fix = "put one object a line in a .jsonl file, or one list in a .json file"
        raise bad from None
    except RecursionError:
        raise _MalformedError("not usable JSON: nested too deeply") from None
    except _MalformedError:
        raise
    except ValueError:
        raise _MalformedError("not usable JSON: a number of too many digits") from None


def _whole(stream: io.BufferedIOBase, fix: str) -> io.BytesIO:
    held = io.BytesIO()
    while block := stream.read(_BLOCK):
        if held.tell() + len(block) > _LARGEST_WHOLE:
            raise _MalformedError(f"more than {_LARGEST_WHOLE >> 20} MB, and this kind of file is read whole", fix)
        held.write(block)
    held.seek(0)
    return held


def _lines(stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE + 1), b""), 1):
        if len(line) > _LONGEST_LINE:
            raise _MalformedError(f"a line of more than {_LONGEST_LINE >> 20} MB", "write one row a line", number)
        yield number, line.removeprefix(_UTF8_BOM) if number == 1 else line


def _jsonl(stream: io.BufferedIOBase) -> _Read:
    for number, line in _lines(stream):
        if not line.strip():
            continue
        try:
            yield number, _parse(line)
        except _MalformedError as bad:
            yield number, bad


def _json(stream: io.BufferedIOBase) -> _Read:
    data = _whole(stream, "write one row a line in a .jsonl file").getvalue().removeprefix(_UTF8_BOM)
    value = _parse(data) if data.strip() else []
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, _Refused):
        raise _MalformedError(value.what)
    if not isinstance(value, list):
        raise _MalformedError(
            f'expected a list of rows or {{"data": [...]}}, not {kind(value)}', "put the rows in a list"
        )
    for row in value:
        yield None, row


def _decoded_lines(stream: io.BufferedIOBase, faults: list[_MalformedError]) -> Iterator[str]:
    for number, line in _lines(stream):
        try:
            text = _decode(line)
        except _MalformedError as bad:
            bad.line, text = number, line.decode("utf-8", "replace").replace("\0", "\ufffd")
            faults.append(bad)
        yield text


def _csv(stream: io.BufferedIOBase, delimiter: str) -> _Read:
    faults: list[_MalformedError] = []  # of the record that is read
    reader = csv.reader(_decoded_lines(stream, faults), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            line, start = start, reader.line_num + 1
            if faults:
                bad, *_ = faults
                faults.clear()
                if not header:
                    raise bad
                yield bad.line, bad
            elif not fields:
                continue
            elif not header:
                header = _header(fields, line)
            elif len(fields) != len(header):
                what = f"{len(fields)} fields, but the header names {len(header)}"
                yield line, _MalformedError(what, "quote fields that hold the delimiter or line breaks")
            else:
                yield line, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        fix = 'quote fields with "..." and double the quotes inside; long texts belong in a .jsonl file'
        raise _MalformedError(f"not valid CSV: {error}", fix, start) from None


def _header(fields: list[str], line: int) -> list[str]:
    seen: set[str] = set()
    for column, name in enumerate(fields, 1):
        if not name.strip():
            raise _MalformedError(f"column {column} has no name", "name each column in the first line", line)
        if name in seen:
            raise _MalformedError(f"two columns are named {shown(name)}", "rename one of them", line)
        seen.add(name)
    return fields


def _parquet(stream: io.BufferedIOBase) -> _Read:
    source = _whole(stream, "unpack the .gz file") if isinstance(stream, gzip.GzipFile) else stream
    try:
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise _MalformedError("two columns have the same name", "rename one of them")
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                yield None, row
    except _MalformedError:
        raise
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, times that Python cannot hold
        raise OSError(str(error)) from error


_READERS: dict[str, Callable[[io.BufferedIOBase], _Read]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows (free of `fault`) as .jsonl, .json, .csv, .tsv or .parquet, all or nothing. A column may be absent.

    Raises DataError for an unknown kind of file or rows that it cannot hold, RunError if the disk says no.
    """
    target = Path(path)
    to_content = _of_kind(target.suffix.lower(), _WRITERS, target)
    write_atomic(target, to_content(rows, str(path)))


def _to_jsonl(rows: Sequence[Row], _: str) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _to_json(rows: Sequence[Row], _: str) -> str:
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _to_csv(rows: Sequence[Row], where: str, delimiter: str) -> str:
    for row in rows:
        if nested := next((key for key, value in row.items() if not isinstance(value, str)), None):
            what = f"this kind of file holds plain text only, and {nested!r} is {kind(row[nested])}"
            raise DataError(what, where=where, fix="write a .jsonl or .parquet file")
    stream = io.StringIO(newline="")
    # The default line ending, CRLF, makes the writer quote both of its characters inside a field.
    writer = csv.DictWriter(stream, _columns(rows), restval="", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _to_parquet(rows: Sequence[Row], _: str) -> bytes:
    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


_WRITERS: dict[str, Callable[[Sequence[Row], str], str | bytes]] = {
    ".jsonl": _to_jsonl,
    ".json": _to_json,
    ".csv": partial(_to_csv, delimiter=","),
    ".tsv": partial(_to_csv, delimiter="\t"),
    ".parquet": _to_parquet,
}
