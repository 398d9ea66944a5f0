"""The Scorer seam: example + reply -> Score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shinan.core.example import Example


@dataclass(frozen=True, slots=True)
class Score:
    """A value, or None where the reply could not be scored (None is never counted as 0).

    Attributes:
        value: the score; its range is the scorer's own (0 to 1 for the metrics here).
        answer: what the scorer read out of the reply, if it extracts something.
        explanation: why, for people.
        by: the scorer's name.
        parts: further numbers (precision, recall, ...).
    """

    value: float | None
    answer: str = ""
    explanation: str = ""
    by: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """Scores one reply to one example. Must be a pure function of its arguments."""

    def __call__(self, example: Example, reply: str) -> Score:
        """Score `reply` as an answer to `example`."""
        ...
