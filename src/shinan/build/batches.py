"""Rows in batches, for methods that ask about each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from shinan.build.author import Ask, Author, Reply
from shinan.core.example import Example

TOGETHER = 100  # rows whose calls are made at once: enough to keep an endpoint busy


def asked(
    author: Author, rows: Sequence[Example], plan: Callable[[Example], Sequence[Ask]]
) -> Iterator[tuple[Example, list[Reply]]]:
    """Each row with the replies to the calls that `plan` makes of it, batch by batch, until the budget is spent."""
    for start in range(0, len(rows), TOGETHER):
        if author.spent:
            return
        batch = rows[start : start + TOGETHER]
        plans = [plan(row) for row in batch]
        replies = iter(author.answers([ask for asks in plans for ask in asks]))
        yield from [(row, [next(replies) for _ in asks]) for row, asks in zip(batch, plans, strict=True)]
