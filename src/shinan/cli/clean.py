"""`shinan clean`: show what the cache and the runs' checkpoints hold, and free it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shinan.recipe.clean import Holding

_RUNS = Path("runs")


def clean(
    cache: Annotated[bool, typer.Option("--cache", help="Select the cache: downloads and models.")] = False,
    run: Annotated[
        list[str] | None, typer.Option("--runs", metavar="NAME", help="Select this run's checkpoints (name or folder).")
    ] = None,
    states: Annotated[
        bool, typer.Option("--states", help="Select what only serves to resume: of finished runs, or of --runs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is selected.")] = False,
) -> None:
    """Show what the cache and the runs' checkpoints hold, and free it.

    Nothing is deleted without --yes. Rows, reports, summaries and logs always stay.

    Example: shinan clean --states --yes
    """
    if yes and not (cache or run or states):
        raise typer.BadParameter("needs a selection: --cache, --runs NAME or --states", param_hint="--yes")
    from shinan.recipe.clean import cached, checkpoints, free
    from shinan.recipe.named import is_run

    named = [Path(text) if "/" in text else _RUNS / text for text in run or ()]
    folders = named or sorted(path for path in _RUNS.glob("*") if is_run(path))
    held = [holding for folder in folders for holding in checkpoints(folder)]
    if not (cache or run or states):
        _show(cached() + held)
        print("Select with --cache, --runs NAME or --states.")
        return
    chosen = cached() if cache else []
    if states:
        for holding in held:
            if holding.kind == "states" and holding.needed and not named:
                print(f"left out, its tuning is not finished: {holding.path} (name it with --runs)")
            elif holding.kind == "states":
                chosen.append(holding)
    elif named:
        chosen += held
    if not yes:
        _show(chosen)
        print("Nothing was deleted. Add --yes to delete this." if chosen else "There is nothing to delete.")
        return
    for holding in free(chosen):
        print(f"deleted {holding.path}")


def _show(holdings: list[Holding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shinan.recipe.clean import size

    table = Table("what", box=None)
    table.add_column("where", overflow="fold")
    table.add_column("holds", justify="right", no_wrap=True)
    table.add_column("deleting it costs")
    for holding in holdings:
        table.add_row(holding.kind, Text(str(holding.path)), _gigabytes(size([holding])), holding.cost)
    table.add_row("in all", "", _gigabytes(size(holdings)), "")
    Console().print(table)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB"
