"""`shinan models`: list the models that need no hub; `shinan models get`: fetch a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shinan.models.catalogue import Offer

app = typer.Typer(help="Show the models that need no hub; `get` fetches one.\n\nExample: shinan models")


@app.callback(invoke_without_command=True)
def models(ctx: typer.Context) -> None:
    """Show the models that need no hub, and which of them are here; `models get` fetches one.

    Example: shinan models
    """
    if ctx.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from shinan.models.catalogue import offers

    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for heading in ("what it is", "licence", "state"):
        table.add_column(heading)
    found = offers()
    for offer in found:
        table.add_row(offer.ref, offer.what, offer.licence, _state(offer))
    Console().print(table)
    for offer in found:
        if offer.folder:
            print(f"{offer.ref}: {offer.folder}")
    print("A recipe may also name a local folder or a hub id.")


def _state(offer: Offer) -> str:
    if offer.folder is None:
        return f"{offer.download_mb} MB to fetch" if offer.download_mb else "made at first use"
    held = sum(path.stat().st_size for path in offer.folder.rglob("*") if path.is_file())
    return f"here, {held / 1e6:,.1f} MB"


@app.command("get")
def get(
    model: Annotated[str, typer.Argument(help="starter:NAME, tiny:NAME, a folder or a hub id.", metavar="REF")],
) -> None:
    """Fetch a model, and say where it lies.

    Example: shinan models get starter:gemma-3-270m
    """
    from shinan.models.card import load_card
    from shinan.models.sources import resolve

    folder = resolve(model)
    card = load_card(folder)
    print(f"{card.name}, licence {card.licence}: {folder}")
