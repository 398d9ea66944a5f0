"""`shinan run` and `shinan plan`: run a recipe, or show what a run would do and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shinan.cli.report import report

if TYPE_CHECKING:
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
    from shinan.recipe.run import run as run_recipe
    from shinan.recipe.run import wait_for_rank_0

    wait_for_rank_0()  # which tells, alone, of a recipe that cannot be read
    loaded = _load(recipe, set_, name)
    report(run_recipe(loaded, runs / loaded.name))


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


def _load(path: Path, overrides: list[str] | None, name: str | None) -> Recipe:
    from shinan.recipe.schema import load_recipe

    named = [f"name={json.dumps(name)}"] if name else []  # as text: `5` and `null` are names too
    return load_recipe(path, [*(overrides or []), *named])
