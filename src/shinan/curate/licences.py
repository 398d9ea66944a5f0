"""The check that keeps rows out whose licence a recipe forbids."""

from __future__ import annotations

from collections.abc import Sequence

from shinan.core.example import Example
from shinan.core.licence import matches
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.checks import Check


def licences(forbid: Sequence[str]) -> Check:
    """Drops rows whose licence one of the patterns means (see `core.licence.matches`).

    Reasons: licence_forbidden; the detail names the licence and the pattern.
    """
    known: dict[str, Verdict] = {}

    def judged(licence: str) -> Verdict:
        pattern = next((pattern for pattern in forbid if matches(licence, pattern)), None)
        return KEEP if pattern is None else Verdict.drop("licence_forbidden", f"{licence}, forbidden as {pattern}")

    def check(examples: Sequence[Example]) -> list[Verdict]:
        for example in examples:
            if (licence := example.provenance.licence) not in known:
                known[licence] = judged(licence)
        return [known[example.provenance.licence] for example in examples]

    return check
