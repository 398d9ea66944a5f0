"""The check of licences: what is forbidden goes with its reason, and the rest stays."""

from __future__ import annotations

import pytest

from shinan.core.example import Example, Provenance, assistant, user
from shinan.core.verdict import KEEP
from shinan.curate.licences import licences


def _row(licence: str) -> Example:
    return Example((user("a"), assistant("b")), provenance=Provenance("a", 0, licence))


@pytest.mark.promise1
def test_the_first_pattern_that_means_a_licence_is_named() -> None:
    rows = [_row(name) for name in ("MIT", "CC-BY-NC-4.0", "unknown", "CC-BY-NC-4.0", "as is")]
    verdicts = licences(["*-NC-*", "non_commercial", "unknown"])(rows)
    assert [verdict.detail for verdict in verdicts] == [
        "",
        "CC-BY-NC-4.0, forbidden as *-NC-*",
        "unknown, forbidden as unknown",
        "CC-BY-NC-4.0, forbidden as *-NC-*",
        "as is, forbidden as unknown",
    ]
    assert [verdict.reason for verdict in verdicts] == ["", *["licence_forbidden"] * 4]
    assert verdicts[0] is KEEP


def test_nothing_forbidden_and_no_rows() -> None:
    assert licences([])([_row("unknown")]) == [KEEP]
    assert licences(["*"])([]) == []
