"""Artefacts on disk: a folder is built aside and renamed into place; its manifest, written last, marks it whole.

A Dataset is such a folder with `data.parquet` (kept rows) and `dropped.parquet` (dropped rows, each with its verdict).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from shinan.core.columns import DROPPED_SCHEMA, KEPT_SCHEMA, from_batch, from_dropped_batch, to_dropped_table, to_table
from shinan.core.errors import DataError, RunError
from shinan.core.example import Example
from shinan.core.hashing import file_sha256
from shinan.core.verdict import KEEP, Tally, Verdict

MANIFEST = "manifest.json"
T = TypeVar("T", bound="Judged")

_GROUP = 4096  # rows of a group in a Parquet file: some megabytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished stage says of itself; written last.

    Attributes:
        stage: the stage's id in the recipe.
        use: the component that made it.
        key: content address: component version, resolved parameters, parents' keys, seed.
        parents: keys of the stages it was made from.
        identity: everything the key was computed from, in the open, so that a changed key can be explained.
        tally: {seen, kept, dropped{reason: n}} where the stage handled rows.
        facts: further results a report needs (counts, losses, choices made by a probe).
        files: every file of the stage, path relative to the manifest -> {bytes, sha256}.
        seconds: wall time, summed over interrupted attempts where the stage can know.
        created: UTC time, ISO 8601.
    """

    stage: str
    use: str
    key: str
    parents: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    tally: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    created: str = ""


_AS_MANIFEST = TypeAdapter(Manifest)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one. Raises RunError if the disk says no."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def cannot_write(path: Path, error: OSError) -> RunError:
    """The sentence for a write that failed."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free some space (`shinan clean` shows what can go)" if full else "choose a folder you may write to"
    why = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own text wraps the same in more words
    return RunError(f"cannot write: {why}", where=str(path), fix=fix)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a write of the block that the disk refuses into RunError, the sentence for `path`."""
    try:
        yield
    except Exception as error:
        if refused := _refused(error):
            raise cannot_write(path, refused) from error
        raise


def _refused(error: Exception) -> OSError | None:
    """What the system said; libraries written in Rust (safetensors, tokenizers) have it in the words of their own."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


# How a write fails without naming its file. Other errors of the work inside `new_folder` are not about its folder.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder beside `path` and rename it into place at the end; on any failure nothing appears at `path`.

    An older folder at `path` is replaced only after the new one is whole, and put back if that fails; after a kill in
    the very moment of replacing, the next call puts it back. Raises RunError if the disk says no.
    """
    beside, old = (path.with_name(f".{path.name}.{end}") for end in ("tmp", "old"))
    try:
        with writing(path):
            _put_back(old, path)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        try:
            yield beside
        except Exception as error:
            refused = _refused(error)
            if refused and (refused.errno in _DISK or Path(str(refused.filename)).is_relative_to(beside)):
                raise cannot_write(path, refused) from error
            raise
        with writing(path):
            _swap(beside, path, old)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _swap(beside: Path, path: Path, old: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        beside.rename(path)
    except BaseException:
        _put_back(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        old.rename(path)


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{name: {bytes, sha256}} for files given relative to `folder`."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in sorted(names)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; `created` is filled in."""
    stamped = asdict(manifest) | {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_atomic(folder / MANIFEST, json.dumps(stamped, ensure_ascii=False, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None if there is none or it cannot be read (then the folder is not finished)."""
    try:
        return _AS_MANIFEST.validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every file of the manifest is there with its size. (Sizes only: hashing is `shinan doctor`'s work.)"""
    try:
        return all((folder / name).stat().st_size == facts["bytes"] for name, facts in manifest.files.items())
    except (OSError, KeyError):
        return False


Dropped = tuple[Example, Verdict]
Judged = Example | Dropped
"""What a source of rows yields: a row, or a row that it drops, with the verdict."""


def write_stream(folder: Path, rows: Iterable[Judged]) -> Tally:
    """Write `data.parquet` and `dropped.parquet` into `folder`, made by `new_folder`; returns their tally.

    Rows are taken as they come and written in groups, so that memory does not grow with their number.

    Raises DataError for text that is not valid Unicode (a lone surrogate), naming the row.
    """
    tally = Tally()
    with (
        _Table[Example](folder / "data.parquet", KEPT_SCHEMA, to_table) as kept,
        _Table[Dropped](folder / "dropped.parquet", DROPPED_SCHEMA, to_dropped_table) as dropped,
    ):
        for row in rows:
            if isinstance(row, Example):
                tally.kept += 1
                kept.add(row)
            else:
                tally.add(row[1])
                dropped.add(row)
    return tally


def write_rows(folder: Path, kept: Iterable[Example], dropped: Iterable[Dropped] = ()) -> Tally:
    """`write_stream` of rows that are already told apart."""
    return write_stream(folder, chain[Judged](kept, dropped))


class _Table(Generic[T]):
    """A Parquet file that grows by groups of rows."""

    def __init__(self, path: Path, schema: pa.Schema, columns: Callable[[Sequence[T]], pa.Table]) -> None:
        self._columns = columns
        self._rows: list[T] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def add(self, row: T) -> None:
        """One more row."""
        self._rows.append(row)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        try:
            table = self._columns(rows)
        except UnicodeEncodeError as error:
            origin = next(where for where, row in ((_where(row), row) for row in rows) if not _is_unicode(row))
            what = f"text that is not valid Unicode (a lone surrogate, {error.object[error.start]!r})"
            raise DataError(what, where=origin, fix="repair or drop the row") from error
        self._writer.write_table(table)


def _where(row: Judged) -> str:
    return row.row if isinstance(row, Example) else row[0].row


def _is_unicode(row: Judged) -> bool:
    example, verdict = (row, KEEP) if isinstance(row, Example) else row
    try:
        json.dumps([example.to_dict(), asdict(verdict)], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def iter_rows(folder: Path, places: Sequence[int] | None = None) -> Iterator[Example]:
    """The kept rows of a dataset folder, in order, a group in memory at a time.

    With `places`, only the rows there are made: positions counted from 0, rising.

    Raises DataError if the file is missing or damaged, when the reading comes to it.
    """
    path = folder / "data.parquet"
    for first, batch in _batches(path, KEPT_SCHEMA):
        if places is not None:
            inside = places[bisect_left(places, first) : bisect_left(places, first + batch.num_rows)]
            batch = batch.take(pa.array([place - first for place in inside], pa.int64()))
        with _reading(path):
            yield from from_batch(batch)


def read_rows(folder: Path) -> list[Example]:
    """All of `iter_rows`."""
    return list(iter_rows(folder))


def iter_dropped(folder: Path) -> Iterator[Dropped]:
    """The dropped rows with their verdicts, as `iter_rows`."""
    for _, batch in _batches(folder / "dropped.parquet", DROPPED_SCHEMA):
        with _reading(folder / "dropped.parquet"):
            yield from from_dropped_batch(batch)


def read_dropped(folder: Path) -> list[Dropped]:
    """All of `iter_dropped`."""
    return list(iter_dropped(folder))


_DAMAGED = "delete the stage's folder and run again"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell what cannot be read as DataError."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read it: {error}", where=str(path), fix=_DAMAGED) from error


def _batches(path: Path, schema: pa.Schema) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The file in batches of exactly this schema, each with the number of rows before it."""
    number = 0
    with _reading(path), pq.ParquetFile(path) as file:  # read_table would take `a=b` in the folder's name for a column
        if missing := [name for name in schema.names if name not in file.schema_arrow.names]:
            what = f"no rows of shinan: it lacks the columns {', '.join(missing)}"
            raise DataError(what, where=str(path), fix=_DAMAGED)
        for part in file.iter_batches(_GROUP, columns=schema.names):
            table = pa.Table.from_batches([part]).select(schema.names).cast(schema)
            for name in schema.names:
                if name != "thumb" and table[name].null_count:
                    number += pc.index(table[name].is_null(), True).as_py()
                    raise DataError(f"row {number} has no {name}", where=str(path), fix=_DAMAGED)
            for batch in table.to_batches():
                yield number, batch
                number += batch.num_rows
