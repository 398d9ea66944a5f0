"""Reads the starter collection's rows that belong to no task: open-ended, conversations, constraints, safety.

One JSON object a line, in `<kind>/<file>.jsonl`; each form says on which side of the split it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from shinan.core.config import Document, validate
from shinan.core.errors import ConfigError, Problem, nearest
from shinan.core.example import Example, Message, Part, Provenance, assistant, user
from shinan.core.hashing import canonical_json, derive_seed
from shinan.starter.collection import LICENCE, ROOT
from shinan.starter.schema import (
    AnyRow,
    Constrained,
    Continuation,
    Conversation,
    Harmful,
    Kind,
    Lookalike,
    Misconception,
    OpenEnded,
)

KINDS: tuple[Kind, ...] = ("open_ended", "conversations", "constraints", "safety")
_FORMS: Mapping[Kind, type[AnyRow]] = {
    "open_ended": OpenEnded,
    "conversations": Conversation,
    "constraints": Constrained,
}
_SAFETY: Mapping[str, type[AnyRow]] = {
    "misconception": Misconception,
    "harmful": Harmful,
    "lookalike": Lookalike,
    "continuation": Continuation,
}


class Placed(NamedTuple):
    """A row, the name of its file without ending, and its position there."""

    row: AnyRow
    file: str
    position: int


@cache
def placed_rows(kind: Kind) -> tuple[Placed, ...]:
    """Every row of a kind, ordered by file and position. Raises ConfigError with every problem of every file."""
    found: list[Placed] = []
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for path in sorted((ROOT / kind).glob("*.jsonl")):
        for position, (where, line) in enumerate(_lines(path)):
            try:
                row = _row(kind, line, where)
            except ConfigError as error:
                problems += error.problems
                continue
            if row.id in owners:
                problems.append(Problem(f"the id {row.id!r} is that of {owners[row.id]} too", where, "give it its own"))
            owners[row.id] = where
            found.append(Placed(row, path.stem, position))
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of every line that is not blank. Only LF ends a line: a text may hold other separators."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(f"cannot read it: {error}", str(path), "save it as UTF-8 text")]) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line


def _row(kind: Kind, line: str, where: str) -> AnyRow:
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError([Problem(f"not valid JSON: {error}", where, "write one object a line")]) from None
    if not isinstance(fields, dict):
        raise ConfigError([Problem("not a JSON object", where, "write one object a line")])
    form = _FORMS.get(kind) or _SAFETY.get(str(fields.get("kind")))
    if form is None:
        name = fields.get("kind")
        raise ConfigError([Problem(f"no kind of safety row is named {name!r}", where, nearest(str(name), _SAFETY))])
    return validate(form, Document(fields, where))


def row_examples(kind: Kind) -> list[Example]:
    """One example a row. Its task, the cluster of statistics, is its own id: these rows are independent.

    Constraints are in the tag `constraints`, as the scorer of that name reads them, and the reply is a reference that
    follows them. A misconception has its answers as choices, in an order that says nothing, the true ones as targets,
    and the first true one as the reply.
    """
    return [_example(kind, placed) for placed in placed_rows(kind)]


def _example(kind: Kind, placed: Placed) -> Example:
    row, file, position = placed
    tags = {"kind": kind, "category": kind, "topic": row.topic, "language": row.language, "split": row.split}
    source = Provenance(f"collection:starter/{kind}/{file}", position, LICENCE, "project")

    def example(*turns: Message, targets: tuple[str, ...] = (), choices: tuple[str, ...] = (), **more: str) -> Example:
        return Example(turns, targets=targets, choices=choices, task=row.id, tags=tags | more, provenance=source)

    match row:
        case Conversation():
            return example(*(Message(turn.role, (Part(turn.content),)) for turn in row.messages))
        case Constrained():
            asked = canonical_json([each.model_dump() for each in row.constraints]).decode()
            return example(user(row.prompt), assistant(row.reference), constraints=asked)
        case Misconception():
            drawn = sorted((*row.true_answers, *row.false_answers), key=lambda text: derive_seed(0, row.id, text))
            turns = user(row.prompt), assistant(row.true_answers[0])
            return example(*turns, targets=row.true_answers, choices=tuple(drawn), category=row.kind)
        case Harmful() | Lookalike():
            return example(user(row.prompt), assistant(row.response), category=row.kind, pair=row.pair)
        case Continuation():
            asked = "yes" if row.respectful else "no"
            return example(user(row.prompt), assistant(row.response), category=row.kind, respectful=asked)
        case OpenEnded():
            return example(user(row.prompt), assistant(row.response))
