"""Rows inside rows: a file of articles with paragraphs with questions, read as a stream of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from shinan.core.errors import DataError, nearest
from shinan.formats.rows import Row, Where, kind


def flatten(
    rows: Iterable[tuple[Where, Row]], path: str, refuse: Callable[[DataError], None]
) -> Iterator[tuple[Where, Row]]:
    """The innermost rows along a path of lists, each with what the rows around it say; an inner value hides an outer.

    Args:
        rows: the outer rows, such as SQuAD's articles.
        path: names of the lists from outside inwards, such as `paragraphs.qas`.
        refuse: called with the error of each row that has no such list.

    Rows are numbered anew, in order; an outer row that is refused counts as one.
    """
    count = 0
    for where, row in rows:
        for found in _inner(row, path.split("."), where, path):
            if isinstance(found, DataError):
                refuse(found)
            else:
                yield replace(where, row=count), found
            count += 1


def _inner(row: Row, names: list[str], where: Where, path: str) -> Iterator[Row | DataError]:
    if not names:
        yield row
        return
    first, *rest = names
    around: dict[str, Any] = {key: value for key, value in row.items() if key != first}
    items = row.get(first)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        what = f"{first!r} of the path {path!r} is {kind(items) if first in row else 'missing'}, not a list of rows"
        yield DataError(what, where=str(where), fix=nearest(first, row))
        return
    for item in items:
        yield from _inner(around | item, rest, where, path)
