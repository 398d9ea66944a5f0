"""Rows in batches, for methods that ask about each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from shinan.build.author import Ask, Author, Reply
from shinan.core.errors import DataError
from shinan.core.example import Example

T = TypeVar("T")

TOGETHER = 100  # rows whose calls are made at once: enough to keep an endpoint busy


def asked(
    author: Author, items: Sequence[T], plan: Callable[[T], Sequence[Ask]]
) -> Iterator[list[tuple[T, list[Reply]]]]:
    """Each item with the replies to the calls that `plan` makes of it, batch by batch, until the budget is spent."""
    for start in range(0, len(items), TOGETHER):
        if author.spent:
            return
        batch = items[start : start + TOGETHER]
        plans = [plan(item) for item in batch]
        replies = iter(author.answers([ask for asks in plans for ask in asks]))
        yield [(item, [next(replies) for _ in asks]) for item, asks in zip(batch, plans, strict=True)]


def text_of(row: Example) -> str:
    """A row's reply, or all that it says where it has none: what methods that begin with texts take."""
    return (row.reply or row.prompt_text).strip()


def texts_of(rows: Sequence[Example]) -> list[Example]:
    """The rows that hold a text. Raises DataError if none does."""
    found = [row for row in rows if text_of(row)]
    if not found:
        raise DataError(f"none of {len(rows)} rows has a text", where="rows", fix="name other stages under `from`")
    return found


def prompts_of(rows: Sequence[Example]) -> list[Example]:
    """The rows that ask something. Raises DataError if none does."""
    found = [row for row in rows if row.prompt and row.prompt[-1].role == "user"]
    if not found:
        fix = "name other build stages under `from`"
        raise DataError(f"none of {len(rows)} rows has a prompt that ends with a user turn", where="rows", fix=fix)
    return found
