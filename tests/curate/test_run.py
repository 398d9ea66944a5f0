"""Folding checks: order, names, and that every row is accounted for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.example import Example, Provenance, assistant, user
from shinan.core.verdict import KEEP, Verdict
from shinan.curate import Check, curate

pytestmark = pytest.mark.promise1


def rows(n: int) -> list[Example]:
    return [Example((user(str(i)), assistant("ok")), provenance=Provenance("a", i)) for i in range(n)]


def multiples_of(k: int) -> Check:
    """Drops the rows whose position is a multiple of k."""

    def check(examples: Sequence[Example]) -> list[Verdict]:
        return [KEEP if row.provenance.row % k else Verdict.drop(f"multiple_of_{k}") for row in examples]

    return check


def test_a_row_is_dropped_by_the_first_check_that_objects() -> None:
    kept, dropped = curate(rows(8), [("two", multiples_of(2)), ("three", multiples_of(3))])
    assert [row.provenance.row for row in kept] == [1, 5, 7]
    assert [(row.provenance.row, found.reason, found.by) for row, found in dropped] == [
        (0, "multiple_of_2", "two"),
        (2, "multiple_of_2", "two"),
        (4, "multiple_of_2", "two"),
        (6, "multiple_of_2", "two"),
        (3, "multiple_of_3", "three"),
    ]


@given(st.integers(0, 40), st.lists(st.integers(1, 7), max_size=4))
def test_kept_and_dropped_are_what_was_seen(n: int, ks: list[int]) -> None:
    seen = rows(n)
    kept, dropped = curate(seen, [(f"check {k}", multiples_of(k)) for k in ks])
    assert sorted(row.row for row in [*kept, *(row for row, _ in dropped)]) == sorted(row.row for row in seen)
    assert all(found.by for _, found in dropped)


def test_a_check_that_loses_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the check 'short' gave 2 verdicts for 3 rows"):
        curate(rows(3), [("short", lambda examples: [KEEP] * (len(examples) - 1))])
