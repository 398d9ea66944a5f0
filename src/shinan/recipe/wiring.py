"""Build stages that take rows from others: in what order they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from shinan.core.errors import ConfigError, Problem


class Taking(Protocol):
    """A stage with a name and the names of those that it takes rows from."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """Whose rows it takes."""
        ...


T = TypeVar("T", bound=Taking)


def in_order(stages: Sequence[T]) -> list[T]:
    """The stages, each after those that it takes rows from, else as they stand. Raises ConfigError for a circle."""
    ordered: dict[str, T] = {}
    while len(ordered) < len(stages):
        ready = [stage for stage in stages if stage.id not in ordered and ordered.keys() >= set(stage.inputs)]
        if not ready:
            left = [stage.id for stage in stages if stage.id not in ordered]
            what = f"build stages wait for each other's rows: {', '.join(left)}"
            raise ConfigError([Problem(what, "build", "take one of the ids out of `from`")])
        ordered[ready[0].id] = ready[0]
    return list(ordered.values())
