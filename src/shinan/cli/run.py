"""`shinan run`, its parts (`build`, `curate`, `tune`), and `shinan plan`: what a run would do, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shinan.cli.report import report

if TYPE_CHECKING:
    from shinan.recipe.plan import Goal
    from shinan.recipe.schema import Recipe

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value, e.g. tune.epochs=1.")
]
RunName = Annotated[str | None, typer.Option("--name", help="Name of the run folder (default: the recipe's name).")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]


def run(recipe: RecipeFile, set_: Overrides = None, name: RunName = None, runs: RunsFolder = Path("runs")) -> None:
    """Build, curate, evaluate, tune, evaluate again, and report.

    Finished work is never done again: after Ctrl-C or a crash, the same command goes on. With several processes:
    torchrun --nproc-per-node 2 -m shinan run RECIPE

    Example: shinan run recipes/quickstart.yaml --set tune.epochs=1
    """
    report(_run(recipe, set_, name, runs, "all"))


def build(recipe: RecipeFile, set_: Overrides = None, name: RunName = None, runs: RunsFolder = Path("runs")) -> None:
    """Build a recipe's rows and stop there, before any is left out.

    `shinan peek` shows them. What is done here is not done again by the other commands.

    Example: shinan build recipes/quickstart.yaml
    """
    _print_rows(_run(recipe, set_, name, runs, "build"))


def curate(recipe: RecipeFile, set_: Overrides = None, name: RunName = None, runs: RunsFolder = Path("runs")) -> None:
    """Build a recipe's rows, leave out what its checks refuse, mix, and stop there: before any model is tuned.

    Example: shinan curate recipes/quickstart.yaml
    """
    _print_rows(_run(recipe, set_, name, runs, "curate"))


def tune(recipe: RecipeFile, set_: Overrides = None, name: RunName = None, runs: RunsFolder = Path("runs")) -> None:
    """Build, curate and tune, without any evaluation; `shinan run` adds it later.

    `shinan chat` and `shinan export` take the run then.

    Example: shinan tune recipes/quickstart.yaml --set tune.epochs=1
    """
    _print_rows(_run(recipe, set_, name, runs, "tune"))


def plan(recipe: RecipeFile, set_: Overrides = None, name: RunName = None, runs: RunsFolder = Path("runs")) -> None:
    """Show what a run would do: each stage cached, to run or blocked, and why.

    Example: shinan plan recipes/quickstart.yaml
    """
    from rich.console import Console
    from rich.table import Table

    from shinan.recipe.run import preview

    loaded = _load(recipe, set_, name)
    table = Table("stage", "uses", "state", "why", box=None)
    for stage, state in preview(loaded, runs / loaded.name):
        table.add_row(stage.id, stage.use, state.status, state.why)
    Console().print(table)


def _run(path: Path, overrides: list[str] | None, name: str | None, runs: Path, goal: Goal) -> Path:
    from shinan.recipe.run import run as run_recipe
    from shinan.recipe.run import wait_for_rank_0

    wait_for_rank_0()  # which tells, alone, of a recipe that cannot be read
    loaded = _load(path, overrides, name)
    return run_recipe(loaded, runs / loaded.name, goal)


def _print_rows(folder: Path) -> None:
    from rich.console import Console

    from shinan.report.collect import collect
    from shinan.report.summary import mixture_table, rows_table

    found = collect(folder)
    Console().print(rows_table(found))
    if found.mixture:
        Console().print(mixture_table(found))
    print(f"run: {folder}")


def _load(path: Path, overrides: list[str] | None, name: str | None) -> Recipe:
    from shinan.recipe.schema import load_recipe

    named = [f"name={json.dumps(name)}"] if name else []  # as text: `5` and `null` are names too
    return load_recipe(path, [*(overrides or []), *named])
