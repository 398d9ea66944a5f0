"""Build stages that take rows from others: in what order they run, and what is wrong with a recipe's wiring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from shinan.core.errors import ConfigError, Problem, nearest
from shinan.core.registry import lookup, names

if TYPE_CHECKING:
    from shinan.recipe.schema import BuildStage, Recipe


def in_order(stages: Sequence[BuildStage]) -> list[BuildStage]:
    """The stages, each after those that it takes rows from, else as they stand. Raises ConfigError for a circle."""
    ordered: dict[str, BuildStage] = {}
    while len(ordered) < len(stages):
        ready = [stage for stage in stages if stage.id not in ordered and ordered.keys() >= set(stage.inputs)]
        if not ready:
            left = [stage.id for stage in stages if stage.id not in ordered]
            what = f"build stages wait for each other's rows: {', '.join(left)}"
            raise ConfigError([Problem(what, "build", "take one of the ids out of `from`")])
        ordered[ready[0].id] = ready[0]
    return list(ordered.values())


def problems(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> list[Problem]:
    """Everything wrong with where rows come from and go to; `where` tells the place of a key in the recipe's file."""
    found = [*_ids(recipe, where), *_rows(recipe, where)]
    if not found:
        try:
            in_order(recipe.build)
        except ConfigError as error:
            found += [problem._replace(where=where(("build",))) for problem in error.problems]
    return found


def _ids(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> Iterator[Problem]:
    ids = [stage.id for stage in recipe.build]
    taken = {id_ for stage in recipe.build for id_ in stage.inputs}
    if recipe.tune.replay:
        taken.add(recipe.tune.replay.source)
    for i, stage in enumerate(recipe.build):
        for j, id_ in enumerate(stage.inputs):
            place = where(("build", i, "from", j))
            if id_ not in ids:
                yield Problem(f"no build stage has the id {id_!r}", place, nearest(id_, ids))
            elif id_ in stage.inputs[:j]:
                yield Problem(f"the rows of {id_!r} are taken twice", place, "name it once")
        if not stage.train and stage.id not in taken:
            fix = "name it under `from` of another stage or of tune.replay, or take `train: false` out"
            yield Problem("nobody takes its rows, and they are not trained on", where(("build", i, "train")), fix)
    if not any(stage.train for stage in recipe.build):
        yield Problem("there is nothing to train on", where(("build",)), "take `train: false` out of one stage")


def _rows(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> Iterator[Problem]:
    """Components that take rows and get none, or the other way round. Unknown components are told elsewhere."""
    known = names("build")
    for i, stage in enumerate(recipe.build):
        if stage.use in known and lookup("build", stage.use).takes_rows != bool(stage.inputs):
            if stage.inputs:
                fix = "take `from` out, or use another component"
                yield Problem(f"{stage.use} takes no rows of other stages", where(("build", i, "from")), fix)
            else:
                fix = "name the stages under `from`"
                yield Problem(f"{stage.use} makes its rows from those of other stages", where(("build", i)), fix)
    for i, task in enumerate(recipe.evaluate):
        if task.use in known and lookup("build", task.use).takes_rows:
            fix = "write its rows to a file first, and use `file` here"
            yield Problem(f"{task.use} makes its rows from those of build stages", where(("evaluate", i)), fix)
