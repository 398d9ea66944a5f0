"""The held-out split of Natural Instructions tasks, by category and by source dataset.

Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705, section 5.1) holds out whole categories of tasks, and
takes every task out of the training side that shares a source dataset with a held-out one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shinan.core.errors import ConfigError, DataError, Problem, nearest
from shinan.core.text import normalise
from shinan.core.verdict import KEEP, Verdict
from shinan.formats.natural_instructions import read_task, task_name
from shinan.formats.rows import read_rows

Split = Literal["train", "heldout", "all"]
WHERE = "build.natural_instructions"
BY = "natural_instructions"

HELDOUT_CATEGORIES = (
    "Textual Entailment",
    "Cause Effect Classification",
    "Coreference Resolution",
    "Dialogue Act Recognition",
    "Answerability Classification",
    "Word Analogy",
    "Overlap Extraction",
    "Keyword Tagging",
    "Question Rewriting",
    "Title Generation",
    "Data to Text",
    "Grammar Error Correction",
)
"""The twelve evaluation categories of Super-NaturalInstructions' default split (section 5.1)."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is decided by before a task file is read for its rows.

    Attributes:
        path: the file.
        categories: kinds of task, as the table says, else the file.
        sources: its source datasets, likewise.
        usable: how many instances can be used, if the file was read for it.
        fault: why the file cannot be read, if that was found.
    """

    path: Path
    categories: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    usable: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        """The task's name."""
        return task_name(self.path)


def read_table(path: str | None) -> dict[str, tuple[str, str]]:
    """{task: (category, source)}. Raises DataError for a file that lacks a column or names a task twice."""
    found: dict[str, tuple[str, str]] = {}
    for where, row in read_rows(path) if path else ():
        task, category, source = (row.get(name) for name in ("task", "category", "source"))
        if not (isinstance(task, str) and isinstance(category, str) and isinstance(source, str)):
            fix = "name the columns task, category and source in the first line"
            raise DataError(f"no task, category or source here, only {', '.join(row)}", where=str(where), fix=fix)
        if task in found:
            raise DataError(f"a second row for the task {task!r}", where=str(where), fix="keep one of the two")
        found[task] = (category, source)
    return found


def read_heads(
    files: Sequence[Path], table: Mapping[str, tuple[str, str]], split: Split, *, counted: bool
) -> list[Head]:
    """One head a file. A file is read for it only where the split needs what the table lacks, or `counted` its size."""
    heads = []
    for path in files:
        categories, sources = ((text,) if text else () for text in table.get(task_name(path), ("", "")))
        head = Head(path, categories, sources)
        if counted or (split != "all" and not (categories and sources)):
            try:
                task = read_task(path)
            except DataError as error:
                head = replace(head, fault=told(error))
            else:
                head = Head(path, categories or task.categories, sources or task.sources, len(task.instances))
        heads.append(head)
    return heads


def told(error: DataError) -> str:
    """An error as the detail of a verdict."""
    return f"{error.where}: {error.what}"


def side_of(heads: Sequence[Head], split: Split, categories: Sequence[str]) -> dict[Path, Verdict]:
    """The files on this side of the split: to be taken, or to be dropped as one row. The others are not in it."""
    held = {normalise(name) for name in categories}
    outside = [head for head in heads if _is_held(head, held)]
    owners = {normalise(source): head.name for head in outside for source in head.sources}
    seen: set[str] = set()
    side: dict[Path, Verdict] = {}
    for head in heads:
        if head.fault:
            side[head.path] = Verdict.drop("unreadable_task", head.fault, BY)
        elif head.name in seen:
            side[head.path] = Verdict.drop("duplicate_task", f"a second file of the task {head.name!r}", BY)
        elif split == "all":
            side[head.path] = KEEP
        elif not head.categories:
            side[head.path] = Verdict.drop("unknown_category", "the split needs it: name it in `table`", BY)
        elif _is_held(head, held) == (split == "heldout"):
            side[head.path] = _known(head) if split == "heldout" else _shared(head, owners)
        seen.add(head.name)
    return side


def _is_held(head: Head, held: Set[str]) -> bool:
    return any(normalise(name) in held for whole in head.categories for name in _with_parent(whole))


def _with_parent(category: str) -> list[str]:
    """A category, and what it is part of: early files write `Question Answering -> Trivia`."""
    return [category, category.partition("->")[0].strip()]


def _known(head: Head) -> Verdict:
    """The verdict on a held-out task: of one whose source nobody knows, the training tasks can't be kept away."""
    what = "training tasks may share it: name it in `table`"
    return KEEP if head.sources else Verdict.drop("unknown_source", what, BY)


def _shared(head: Head, owners: Mapping[str, str]) -> Verdict:
    """The verdict on a training task. `owners`: a held-out task for each of the held-out tasks' sources."""
    if not head.sources:
        return Verdict.drop("unknown_source", "it may be a held-out task's: name it in `table`", BY)
    for source in head.sources:
        if owner := owners.get(normalise(source)):
            what = f"its source dataset {source!r} is that of the held-out task {owner}"
            return Verdict.drop("shares_heldout_source", what, BY)
    return KEEP


def check_names(
    heads: Sequence[Head],
    side: Mapping[Path, Verdict],
    categories: Sequence[str] | None,
    names: Sequence[str] | None,
) -> None:
    """Raises ConfigError for tasks and categories that the files do not have, or that are on the other side."""
    problems = []
    known = {normalise(name): name for head in heads for whole in head.categories for name in _with_parent(whole)}
    for category in categories or ():
        if normalise(category) not in known:
            what = f"no task is of the category {category!r}"
            problems.append(Problem(what, f"{WHERE} heldout_categories", nearest(category, known.values())))
    sides = {head.name: head.path in side for head in heads}
    for name in names or ():
        if name not in sides:
            problems.append(Problem(f"no task is named {name!r}", f"{WHERE} tasks", nearest(name, sides)))
        elif not sides[name]:
            what = f"the task {name!r} is on the other side of the split"
            problems.append(Problem(what, f"{WHERE} tasks", "change `split` or leave the task out"))
    if problems:
        raise ConfigError(problems)
