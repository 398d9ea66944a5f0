"""The mixture of a run as its stage's manifest tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """One source of the mixture, or a part of one.

    Attributes:
        path: its name, after those of the sources around it.
        available: rows that there were to take.
        share: its share of the mixture as the recipe asks for it.
        taken: rows written, of which `distinct` are different.
        copies: the most times that one row is written.
        epochs: rows written for each that there was.
    """

    path: tuple[str, ...]
    available: int
    share: float
    taken: int
    distinct: int
    copies: int
    epochs: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """What was made of the rows that curation left: rows written, how many of them differ, and from where."""

    written: int
    distinct: int
    sources: tuple[Source, ...]

    @property
    def whole(self) -> list[Source]:
        """The sources that are not parts of others, the largest first."""
        return sorted((s for s in self.sources if len(s.path) == 1), key=lambda s: (-s.taken, s.path))


def mixture_of(facts: Mapping[str, Any]) -> Mixture:
    """Read the facts of the stage `mix`."""
    sources = (Source(**source | {"path": tuple(source["path"])}) for source in facts["sources"])
    return Mixture(facts["written"], facts["distinct"], tuple(sources))
