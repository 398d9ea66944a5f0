"""`shinan new`: write a commented recipe for rows of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe and its runs; NAME.yaml is written.")],
    template: Annotated[str, typer.Option("--from", help="What to begin from: own-data or quickstart.")] = "own-data",
) -> None:
    """Write a commented recipe to begin from, for rows of your own.

    Example: shinan new support-desk
    """
    from shinan.recipe.templates import new_recipe

    path = new_recipe(Path(name), template)
    print(f"wrote {path}")
    print(f"next: change what it says to your needs, then `shinan plan {path}` and `shinan run {path}`")
