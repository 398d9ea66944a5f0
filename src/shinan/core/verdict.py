"""Verdict: what a check says of a row. Tally: the count in which kept + dropped = seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verdict:
    """Keep or drop. A drop names its reason (a short stable word) and, where it helps, the detail.

    >>> Verdict.drop("empty_reply", by="structure").keep
    False
    """

    keep: bool
    reason: str = ""
    detail: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if not self.keep and not self.reason:
            raise ValueError("a dropped row needs a reason")

    @classmethod
    def drop(cls, reason: str, detail: str = "", by: str = "") -> Verdict:
        """A verdict against the row."""
        return cls(False, reason, detail, by)


KEEP = Verdict(True)


@dataclass(slots=True)
class Tally:
    """kept + dropped = seen, by construction."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        """Rows that came in."""
        return self.kept + self.dropped.total()

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        if verdict.keep:
            self.kept += 1
        else:
            self.dropped[verdict.reason] += 1

    def to_dict(self) -> dict[str, object]:
        """`{seen, kept, dropped: {reason: n}}`, reasons by falling count."""
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        return {"seen": self.seen, "kept": self.kept, "dropped": dict(reasons)}
