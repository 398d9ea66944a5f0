"""Rows from the starter collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from shinan.core.errors import DataError, Problem, nearest
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.starter import KINDS, Kind, examples, fingerprint, row_examples, split_of
from shinan.starter import tasks as starter_tasks

Kinds = Annotated[Sequence[Kind], Field(min_length=1)]


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Every choice that the collection does not have."""
    every = {task.name: task for task in starter_tasks()}
    codes = {task.language for task in every.values()}
    if params["name"] != "starter":
        yield Problem(f"no collection is named {params['name']!r}", "name", nearest(params["name"], ["starter"]))
    for code in params["languages"] or ():
        if code not in codes:
            yield Problem(f"no row is in {code!r}", "languages", nearest(code, codes))
    if params["tasks"] is not None and "tasks" not in params["kinds"]:
        fix = "add `tasks` to `kinds`, or leave the names out"
        yield Problem("names of tasks, but `kinds` has no tasks", "tasks", fix)
    for wanted in params["tasks"] or ():
        if wanted not in every:
            yield Problem(f"no task is named {wanted!r}", "tasks", nearest(wanted, every))
        elif params["split"] not in ("all", split_of(every[wanted])):
            side = split_of(every[wanted])
            what = f"the task {wanted!r} is on the side {side!r} of the split, not {params['split']!r}"
            yield Problem(what, "tasks", "change `split` or leave the task out")


@register("build", "collection", version=2, content=lambda params: fingerprint(params["kinds"]), check=_unfit)
def collection(
    seed: int,
    *,
    name: str = "starter",
    kinds: Kinds = ("tasks",),
    split: Literal["train", "heldout", "all"] = "train",
    languages: list[str] | None = None,
    tasks: list[str] | None = None,
    instances_per_task: PositiveInt | None = None,
    limit: PositiveInt | None = None,
    demonstrations: NonNegativeInt = 0,
    avoid: bool = True,
) -> list[Example]:
    """Examples of the starter collection, ordered by kind, language, task and instance.

    Args:
        seed: decides which instances are taken where not all are.
        name: the collection; there is one, `starter`.
        kinds: `tasks`, `open_ended`, `conversations`, `constraints`, `safety`: the kinds of rows to take.
        split: `train`, `heldout` (categories of tasks that are never trained on, all constraints, and the
            misconceptions of `safety`) or `all`.
        languages: language codes to take (default: all).
        tasks: names of tasks to take (default: all); other kinds are not narrowed.
        instances_per_task: take at most this many instances of each task, drawn by seed.
        limit: take this many examples in all: one of each task, then a second of each, and so on. A row of another
            kind counts as a task of its own.
        demonstrations: right answers shown before the input (as many as the task has, two or three, if that is fewer).
        avoid: add the task's sentence on what to avoid.

    `bind` refuses an unknown collection, language or task, and a task on the other side of the split.

    Raises:
        DataError: nothing is left to take.
    """
    groups = [[row] for kind in KINDS if kind in kinds for row in row_examples(kind)]
    if "tasks" in kinds:
        chosen = [task for task in starter_tasks() if tasks is None or task.name in tasks]
        groups += [examples(task, demonstrations=demonstrations, avoid=avoid) for task in chosen]
    fitting = [[row for row in group if _fits(row, split, languages)] for group in groups]
    taken = _draw(seed, [group for group in fitting if group], instances_per_task, limit)
    if not taken:
        raise DataError(
            "no row fits the choice of kinds, split, languages and tasks",
            where="build.collection",
            fix="widen the choice; `python -m shinan.starter` shows what there is",
        )
    return sorted(taken, key=_place)


def _draw(seed: int, groups: Sequence[list[Example]], most: int | None, limit: int | None) -> list[Example]:
    """At most `most` rows of each group, `limit` in all: one of each group, then a second of each, and so on."""
    queue = []
    for group in groups:
        rows = sorted(group, key=lambda row: derive_seed(seed, "build.collection/row", row.task, row.provenance.row))
        turn = derive_seed(seed, "build.collection/task", group[0].task)
        queue += [((round_, turn), row) for round_, row in enumerate(rows[:most])]
    queue.sort(key=itemgetter(0))
    return [row for _, row in queue[:limit]]


def _place(row: Example) -> tuple[int, str, str, int]:
    """Where a row stands in the collection's order: kind, language, task, instance."""
    kinds: list[str] = ["tasks", *KINDS]
    return kinds.index(row.tags["kind"]), row.tags["language"], row.task, row.provenance.row


def _fits(row: Example, split: str, languages: Sequence[str] | None) -> bool:
    return split in ("all", row.tags["split"]) and (languages is None or row.tags["language"] in languages)
