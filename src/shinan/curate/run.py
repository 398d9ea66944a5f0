"""Applies checks to a list of examples: what is kept, and what is dropped, by which check and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from shinan.core.example import Example
from shinan.core.verdict import Verdict
from shinan.curate.checks import Check


class Curated(NamedTuple):
    """kept + dropped = seen; both in the order in which they came, the dropped ones check by check."""

    kept: list[Example]
    dropped: list[tuple[Example, Verdict]]


def curate(examples: Sequence[Example], checks: Sequence[tuple[str, Check]]) -> Curated:
    """Apply named checks in order; each sees only what the ones before it kept.

    Raises ValueError if a check does not give one verdict a row, or if a row is lost (a mistake in the check).
    """
    kept, dropped = list(examples), list[tuple[Example, Verdict]]()
    for name, check in checks:
        verdicts = check(kept)
        if len(verdicts) != len(kept):
            raise ValueError(f"the check {name!r} gave {len(verdicts)} verdicts for {len(kept)} rows")
        judged = list(zip(kept, verdicts, strict=True))
        kept = [example for example, verdict in judged if verdict.keep]
        dropped += [(example, replace(verdict, by=name)) for example, verdict in judged if not verdict.keep]
    return Curated(kept, dropped)
