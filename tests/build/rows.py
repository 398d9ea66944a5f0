"""Rows for the tests of methods that ask models, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable

from shinan.build.instructions import as_messages
from shinan.core.dataset import Judged
from shinan.core.example import Example, Provenance
from shinan.models.generator import Request


def task(number: int, instruction: str, given: str = "", output: str = "") -> Example:
    """Row `number` of a source named `seeds`."""
    return Example(as_messages(instruction, given, output), provenance=Provenance("seeds", number, "CC0-1.0", "human"))


def kept(judged: Iterable[Judged]) -> list[Example]:
    """The rows that were kept."""
    return [row for row in judged if isinstance(row, Example)]


def reasons(judged: Iterable[Judged]) -> list[str]:
    """Why the others were dropped, in order."""
    return [row[1].reason for row in judged if not isinstance(row, Example)]


def asked(request: Request) -> str:
    """What a request says at its end."""
    return request.messages[-1].text if request.messages else request.prompt
