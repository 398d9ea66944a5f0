"""Rows from the starter collection."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from shinan.core.errors import ConfigError, DataError, Problem, nearest
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.starter import Split, Task, examples, fingerprint, split_of
from shinan.starter import tasks as starter_tasks


@register("build", "collection", version=1, content=lambda params: fingerprint())
def collection(
    seed: int,
    *,
    name: str = "starter",
    split: Literal["train", "heldout", "all"] = "train",
    languages: list[str] | None = None,
    tasks: list[str] | None = None,
    instances_per_task: PositiveInt | None = None,
    limit: PositiveInt | None = None,
    demonstrations: NonNegativeInt = 0,
    avoid: bool = True,
) -> list[Example]:
    """Examples of the starter collection, ordered by language, task and instance.

    Args:
        seed: decides which instances are taken where not all are.
        name: the collection; there is one, `starter`.
        split: `train`, `heldout` (categories that are never trained on) or `all`.
        languages: language codes to take (default: all).
        tasks: names of tasks to take (default: all).
        instances_per_task: take at most this many instances of each task, drawn by seed.
        limit: take this many examples in all: one of each task, then a second of each, and so on.
        demonstrations: right answers shown before the input (as many as the task has, two or three, if that is fewer).
        avoid: add the task's sentence on what to avoid.

    Raises:
        ConfigError: an unknown collection, language or task, or a task on the other side of the split.
        DataError: nothing is left to take.
    """
    chosen = _choose(name, None if split == "all" else split, languages, tasks)
    queue = []
    for task in chosen:
        rows = examples(task, demonstrations=demonstrations, avoid=avoid)
        rows.sort(key=lambda row: derive_seed(seed, "build.collection/row", row.task, row.provenance.row))
        turn = derive_seed(seed, "build.collection/task", task.name)
        queue += [((place, turn), row) for place, row in enumerate(rows[:instances_per_task])]
    queue.sort(key=itemgetter(0))
    taken = [row for _, row in queue[:limit]]
    return sorted(taken, key=lambda row: (row.tags["language"], row.task, row.provenance.row))


def _choose(name: str, split: Split | None, languages: Sequence[str] | None, names: Sequence[str] | None) -> list[Task]:
    every = {task.name: task for task in starter_tasks()}
    codes = {task.language for task in every.values()}
    problems = []
    if name != "starter":
        problems.append(
            Problem(f"no collection is named {name!r}", "build.collection name", nearest(name, ["starter"]))
        )
    for code in languages or ():
        if code not in codes:
            problems.append(Problem(f"no task is in {code!r}", "build.collection languages", nearest(code, codes)))
    for wanted in names or ():
        if wanted not in every:
            fix = nearest(wanted, every)
            problems.append(Problem(f"no task is named {wanted!r}", "build.collection tasks", fix))
        elif split not in (None, split_of(every[wanted])):
            what = f"the task {wanted!r} is on the side {split_of(every[wanted])!r} of the split, not {split!r}"
            problems.append(Problem(what, "build.collection tasks", "change `split` or leave the task out"))
    if problems:
        raise ConfigError(problems)
    found = [task for task in starter_tasks(languages, split) if names is None or task.name in names]
    if not found:
        raise DataError(
            "no task fits the choice of split, languages and tasks",
            where="build.collection",
            fix="widen the choice; `python -m shinan.starter` shows what there is",
        )
    return found
