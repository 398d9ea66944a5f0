"""Examples as the columns of a Parquet table, and back: a whole group of rows at a time, without a dict for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from sys import intern
from typing import Any, TypeVar

import pyarrow as pa

from shinan.core.example import Example, Message, Part, Provenance
from shinan.core.verdict import Verdict

T = TypeVar("T")

_PARTS = pa.list_(pa.struct({"kind": pa.string(), "text": pa.string()}))
_MESSAGES = pa.list_(pa.struct({"role": pa.string(), "train": pa.bool_(), "parts": _PARTS}))
_TEXTS = pa.list_(pa.string())
_PROVENANCE = pa.struct(
    {"source": pa.string(), "row": pa.int64(), "licence": pa.string(), "maker": pa.string(), "parents": _TEXTS}
)
_COLUMNS = {
    "id": pa.string(),
    "task": pa.string(),
    "messages": _MESSAGES,
    "rejected": _MESSAGES,
    "targets": _TEXTS,
    "choices": _TEXTS,
    "ranked": _TEXTS,
    "thumb": pa.bool_(),
    "weight": pa.float64(),
    "tags": pa.map_(pa.string(), pa.string()),
    "scores": pa.map_(pa.string(), pa.float64()),
    "provenance": _PROVENANCE,
}
_VERDICT = {"reason": pa.string(), "detail": pa.string(), "by": pa.string()}
KEPT_SCHEMA = pa.schema(_COLUMNS)
DROPPED_SCHEMA = pa.schema({**_COLUMNS, **_VERDICT})


def to_table(rows: Sequence[Example]) -> pa.Table:
    """A table of `KEPT_SCHEMA`. Raises UnicodeEncodeError for text with a lone surrogate."""
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.task for row in rows], pa.string()),
        _messages([row.messages for row in rows]),
        _messages([row.rejected for row in rows]),
        _texts([row.targets for row in rows]),
        _texts([row.choices for row in rows]),
        _texts([row.ranked for row in rows]),
        pa.array([row.thumb for row in rows], pa.bool_()),
        pa.array([row.weight for row in rows], pa.float64()),
        _map([sorted(row.tags.items()) for row in rows], _COLUMNS["tags"]),
        _map([sorted(row.scores.items()) for row in rows], _COLUMNS["scores"]),
        _provenance([row.provenance for row in rows]),
    ]
    return pa.Table.from_arrays(columns, schema=KEPT_SCHEMA)


def to_dropped_table(rows: Sequence[tuple[Example, Verdict]]) -> pa.Table:
    """A table of `DROPPED_SCHEMA`. Raises UnicodeEncodeError for text with a lone surrogate."""
    table = to_table([example for example, _ in rows])
    for name, kind in _VERDICT.items():
        table = table.append_column(name, pa.array([getattr(verdict, name) for _, verdict in rows], kind))
    return table


def _offsets(lists: Iterable[Sequence[Any]]) -> pa.Array:
    """Where each list begins in all of them joined, and where the last one ends."""
    return pa.array(accumulate(map(len, lists), initial=0), pa.int32())


def _messages(lists: Sequence[Sequence[Message]]) -> pa.Array:
    turns = list(chain.from_iterable(lists))
    parts = [part for turn in turns for part in turn.parts]
    pieces = [
        pa.array([part.kind for part in parts], pa.string()),
        pa.array([part.text for part in parts], pa.string()),
    ]
    cut = pa.ListArray.from_arrays(
        _offsets([turn.parts for turn in turns]), pa.StructArray.from_arrays(pieces, fields=list(_PARTS.value_type))
    )
    fields = [
        pa.array([turn.role for turn in turns], pa.string()),
        pa.array([turn.train for turn in turns], pa.bool_()),
        cut,
    ]
    return pa.ListArray.from_arrays(
        _offsets(lists), pa.StructArray.from_arrays(fields, fields=list(_MESSAGES.value_type))
    )


def _texts(lists: Sequence[Sequence[str]]) -> pa.Array:
    return pa.ListArray.from_arrays(_offsets(lists), pa.array(list(chain.from_iterable(lists)), pa.string()))


def _map(lists: Sequence[list[tuple[str, Any]]], kind: pa.MapType) -> pa.Array:
    pairs = list(chain.from_iterable(lists))
    keys = pa.array([key for key, _ in pairs], kind.key_type)
    return pa.MapArray.from_arrays(_offsets(lists), keys, pa.array([value for _, value in pairs], kind.item_type))


def _provenance(origins: Sequence[Provenance]) -> pa.Array:
    fields = [
        pa.array([origin.source for origin in origins], pa.string()),
        pa.array([origin.row for origin in origins], pa.int64()),
        pa.array([origin.licence for origin in origins], pa.string()),
        pa.array([origin.maker for origin in origins], pa.string()),
        _texts([origin.parents for origin in origins]),
    ]
    return pa.StructArray.from_arrays(fields, fields=list(_PROVENANCE))


def from_batch(batch: pa.RecordBatch) -> Iterator[Example]:
    """The rows of a batch that has the columns of `KEPT_SCHEMA`.

    Raises:
        ValueError: something is missing inside a row.
        DataError: a stored id is not the hash of the row's content.
    """
    plain = {name: batch.column(name).to_pylist() for name in ("id", "task", "thumb", "weight")}
    columns = zip(
        plain["id"],
        _messages_of(batch.column("messages")),
        _messages_of(batch.column("rejected")),
        *(_texts_of(batch.column(name)) for name in ("targets", "choices", "ranked")),
        plain["thumb"],
        plain["task"],
        plain["weight"],
        *(_maps_of(batch.column(name)) for name in ("tags", "scores")),
        _provenances_of(batch.column("provenance")),
        strict=True,
    )
    for id_, *content in columns:
        yield Example(*content).checked(id_)


def from_dropped_batch(batch: pa.RecordBatch) -> Iterator[tuple[Example, Verdict]]:
    """The rows of a batch that has the columns of `DROPPED_SCHEMA`; raises what `from_batch` does."""
    said = zip(*(batch.column(name).to_pylist() for name in _VERDICT), strict=True)
    return ((example, Verdict.drop(*words)) for example, words in zip(from_batch(batch), said, strict=True))


def _tuples(column: pa.ListArray, values: list[T]) -> Iterator[tuple[T, ...]]:
    """The lists of a column, whose `values` are those of all lists joined."""
    return (tuple(values[start:end]) for start, end in pairwise(column.offsets.to_pylist()))


def _strings(column: pa.Array) -> list[str]:
    if column.null_count:
        raise ValueError("a text is missing")
    texts: list[str] = column.to_pylist()
    return texts


def _numbers(column: pa.Array) -> list[int]:
    if column.null_count:
        raise ValueError("a number is missing")
    numbers: list[int] = column.to_pylist()
    return numbers


def _names(column: pa.Array) -> list[str]:
    """Strings of which there are few different ones: kept once each."""
    return list(map(intern, _strings(column)))


def _messages_of(column: pa.ListArray) -> Iterator[tuple[Message, ...]]:
    turns = column.values
    inner = turns.field("parts")
    kinds: list[Any] = _names(inner.values.field("kind"))
    parts = _tuples(inner, list(map(Part, _strings(inner.values.field("text")), kinds)))
    roles: list[Any] = _names(turns.field("role"))
    return _tuples(column, list(map(Message, roles, parts, turns.field("train").to_pylist())))


def _texts_of(column: pa.ListArray) -> Iterator[tuple[str, ...]]:
    return _tuples(column, _strings(column.values))


def _maps_of(column: pa.MapArray) -> Iterator[dict[str, Any]]:
    values = _names(column.items) if pa.types.is_string(column.items.type) else column.items.to_pylist()
    return map(dict, _tuples(column, list(zip(_names(column.keys), values, strict=True))))


def _provenances_of(column: pa.StructArray) -> Iterator[Provenance]:
    return map(
        Provenance,
        _names(column.field("source")),
        _numbers(column.field("row")),
        _names(column.field("licence")),
        _names(column.field("maker")),
        _texts_of(column.field("parents")),
    )
