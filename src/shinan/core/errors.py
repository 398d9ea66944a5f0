"""Errors a user can act on. Anything else that escapes is our bug and keeps its traceback.

ShinanError              what, where, do this
├── ConfigError          a recipe or option; carries every problem found, not only the first
├── DataError            a row, file or dataset
├── ModelError           a model, checkpoint, tokenizer or chat format
├── TrainingError        tuning cannot go on (NaN, nothing to train, memory)
└── RunError             the run folder, the disk, a lock, a missing extra
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple


class ShinanError(Exception):
    """A mistake or a circumstance outside our code, told as: what, where, do this.

    `where` is `file:line`, a row id, a URL or an option as typed; `fix` is one imperative sentence.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self._text())

    def _text(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  do this: {self.fix}" if self.fix else head


class Problem(NamedTuple):
    """One thing wrong with a configuration."""

    what: str
    where: str
    fix: str = ""


class ConfigError(ShinanError):
    """Every problem of one configuration, reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [ShinanError(p.what, where=p.where, fix=p.fix)._text() for p in self.problems]
        super().__init__("\n".join(lines))


class DataError(ShinanError):
    """A row, a file or a dataset that cannot be used."""


class ModelError(ShinanError):
    """A model, checkpoint, tokenizer or chat format that cannot be used."""


class TrainingError(ShinanError):
    """Tuning cannot go on."""


class RunError(ShinanError):
    """The run folder, the disk, a lock, the network, or a missing extra."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop, and what was under way is saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


_LONGEST_NAME = 100  # comparing grows with the square of the length
_REPR = reprlib.Repr()
_REPR.maxlevel = 1


def shown(value: Any) -> str:
    """`repr(value)` cut to 60 characters, at no more cost however long, deep or tangled the value is."""
    text = repr(value[:60]) if isinstance(value, str | bytes) else _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: object, valid: Iterable[str]) -> str:
    """A `did you mean` sentence for a mistyped name, else the list of valid ones (empty if there are none)."""
    options = sorted(valid)
    if not options:
        return ""
    close = get_close_matches(name[:_LONGEST_NAME], options, n=1, cutoff=0.6) if isinstance(name, str) else []
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"use one of: {shown}"
