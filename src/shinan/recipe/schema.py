"""What a recipe may say. The sections stand in the order in which they run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, field_validator

from shinan.build.mixture import Mix
from shinan.core.config import Config, Document, Keys, apply_overrides, load_yaml, validate
from shinan.core.errors import ConfigError, Problem, nearest
from shinan.core.licence import meant
from shinan.core.registry import Bound, bind, lookup, names
from shinan.recipe.wiring import in_order
from shinan.train.settings import TuneSettings

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


def folder_name(text: str) -> str:
    """The text, if folders and files can be called by it. Raises ValueError."""
    if not _ID.fullmatch(text):
        raise ValueError(f"{text!r} names no folder: use lower-case letters, digits, - and _")
    return text


Id = Annotated[str, AfterValidator(folder_name)]
"""A name that folders and files are called by."""


class Use(Config):
    """A registered component with its parameters."""

    use: str
    """The component's name."""
    params: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its parameters."""


class BuildStage(Use):
    """One source of training rows; the sources are joined in order."""

    id: Id
    """Name of the stage, unique in the recipe."""
    inputs: list[str] = Field(default_factory=list, alias="from")
    """Ids of the stages whose rows it is made from, for components that take rows."""
    train: bool = True
    """Whether its rows are trained on; `false` for rows that only feed other stages."""


class Decontaminate(Config):
    """Drop training rows that hold more than `share` of an evaluation item's words, in runs of `n` or more."""

    n: int = Field(8, ge=2)
    """Words of an n-gram (a character counts as a word in unspaced scripts). 8 is Tulu 3's (arXiv 2411.15124)."""
    share: float = Field(0.5, ge=0, lt=1)
    """Dropped if more than this share of the item's words stand in n-grams that the row has too (Tulu 3: 0.5)."""


class Licences(Config):
    """Which licences the training rows may have. What those of a run ask for together stands in its report."""

    forbid: list[str] = Field(default_factory=list)
    """Rows of these are dropped: SPDX ids, patterns such as `*-NC-*`, or terms (unknown, no_derivatives,
    non_commercial, model_terms, use_limits, share_alike, attribution); `unknown` is all whose terms are not known."""

    @field_validator("forbid")
    @classmethod
    def _terms_are_spelled_right(cls, forbid: list[str]) -> list[str]:
        for pattern in forbid:
            if term := meant(pattern):
                raise ValueError(f"{pattern!r} is no licence and no term: did you mean {term!r}?")
        return forbid


class EvalTask(Use):
    """Held-out items, asked before and after tuning."""

    id: Id
    """Name of the task, unique in the recipe."""
    metrics: list[str] = Field(["rouge_l", "exact_match"], min_length=1)
    """Scorers; the first is the headline."""
    max_new_tokens: int = Field(48, gt=0)
    """Longest reply."""


T = TypeVar("T", BuildStage, EvalTask)


class Recipe(Config):
    """A whole run: one model, its data, its tuning, its evaluation."""

    name: Id
    """Name of the run folder."""
    seed: int = 0
    """Every random draw derives from it."""
    model: str
    """starter:NAME, tiny:NAME, a local folder, or a hub id."""
    chat: str | None = None
    """Chat format; by default the model's own, else one that its tokenizer can write."""
    build: list[BuildStage] = Field(min_length=1)
    """Where training rows come from."""
    curate: list[Use] = Field(default_factory=list)
    """Checks, in order."""
    decontaminate: Decontaminate | bool = Decontaminate()
    """On unless switched off by name: `decontaminate: false`."""
    licences: Licences = Licences()
    """Licences that are kept out."""
    mix: Mix | None = None
    """How the rows that curation leaves are mixed; without it each is trained on once an epoch."""
    tune: TuneSettings = TuneSettings()
    """How to tune."""
    evaluate: list[EvalTask] = Field(min_length=1)
    """What is measured before and after."""

    @field_validator("decontaminate")
    @classmethod
    def _true_means_default(cls, value: Decontaminate | bool) -> Decontaminate | bool:
        return Decontaminate() if value is True else value

    @field_validator("build", "evaluate")
    @classmethod
    def _ids_are_unique(cls, stages: list[T]) -> list[T]:
        twice = [name for name, count in Counter(stage.id for stage in stages).items() if count > 1]
        if twice:
            raise ValueError(f"two entries have the id {twice[0]!r}")
        return stages


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe, `--set` overrides applied.

    Raises ConfigError with every problem found: overrides, keys and types, then component names and parameters.
    """
    document, problems = load_yaml(path), list[Problem]()
    try:
        apply_overrides(document, overrides or [])
    except ConfigError as error:
        problems += error.problems
    try:
        recipe = validate(Recipe, document)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    for kind, keys, name, params in _components(recipe):
        try:
            bind(kind, name, params, where=document.where(keys))
        except ConfigError as error:
            problems.extend(error.problems)
    problems += _wiring_problems(recipe, document.where)
    problems += _mix_problems(recipe, document)
    problems += _replay_problems(recipe, document)
    if problems:
        raise ConfigError(problems)
    return recipe


def _wiring_problems(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> list[Problem]:
    """Everything wrong with where rows come from and go to; `where` tells the place of a key in the recipe's file."""
    found = [*_id_problems(recipe, where), *_row_problems(recipe, where)]
    if not found:
        try:
            in_order(recipe.build)
        except ConfigError as error:
            found += [problem._replace(where=where(("build",))) for problem in error.problems]
    return found


def _id_problems(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> Iterator[Problem]:
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


def _row_problems(recipe: Recipe, where: Callable[[Sequence[str | int]], str]) -> Iterator[Problem]:
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


def _mix_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """Names of build stages that a mixture mistypes or leaves out; other names are known once there are rows."""
    builds = {use.id for use in recipe.build}
    for depth, level in enumerate(recipe.mix.levels if recipe.mix else ()):
        keys: Keys = ("mix", *["within"] * depth)
        named = {"weights": level.weights, "epochs": level.epochs if isinstance(level, Mix) else None}
        for key, given in named.items() if level.by == "build" else ():
            if isinstance(given, dict):
                for name in sorted(given.keys() - builds):
                    where = document.where((*keys, key, name))
                    yield Problem(f"no build stage has the id {name!r}", where, nearest(name, builds))
                for name in sorted(builds - given.keys()):
                    where = document.where((*keys, key))
                    yield Problem(f"the build stage {name!r} has no weight", where, "give it one, or 0 to leave it out")


def _replay_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """A build stage that replay names and that is not there, or is trained on as rows."""
    if recipe.tune.replay is None:
        return
    stages, source = {use.id: use for use in recipe.build}, recipe.tune.replay.source
    where = document.where(("tune", "replay", "from"))
    if source not in stages:
        yield Problem(f"no build stage has the id {source!r}", where, nearest(source, stages))
    elif stages[source].train:
        yield Problem(f"the rows of {source!r} are trained on already", where, "set `train: false` on that stage")


def _components(recipe: Recipe) -> list[tuple[str, tuple[str | int, ...], str, dict[str, Any]]]:
    """(kind, place in the recipe, name, parameters) of everything a recipe names."""
    import_rooms()
    found: list[tuple[str, tuple[str | int, ...], str, dict[str, Any]]] = []
    found += [("build", ("build", i), use.use, use.params) for i, use in enumerate(recipe.build)]
    found += [("check", ("curate", i), use.use, use.params) for i, use in enumerate(recipe.curate)]
    found += [("build", ("evaluate", i), task.use, task.params) for i, task in enumerate(recipe.evaluate)]
    for i, task in enumerate(recipe.evaluate):
        found += [("scorer", ("evaluate", i, "metrics", j), name, {}) for j, name in enumerate(task.metrics)]
    found.append(("objective", ("tune", "objective"), recipe.tune.objective, recipe.tune.params))
    return found


def import_rooms() -> None:
    """Import the modules whose components recipes may name, so that they are registered."""
    import shinan.build
    import shinan.curate.checks
    import shinan.curate.duplicates
    import shinan.curate.near_duplicates
    import shinan.scorers.exact
    import shinan.scorers.rouge
    import shinan.train.dpo
    import shinan.train.sft  # noqa: F401


def bound(kind: str, use: Use) -> Bound:
    """The component of a checked recipe."""
    return bind(kind, use.use, use.params)
