"""`shinan export`: a tuned model in the form that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, a model folder or starter:NAME.")],
    to: Annotated[str, typer.Option("--to", help="safetensors (merged), adapter (peft) or gguf (llama.cpp).")],
    type_: Annotated[
        str | None, typer.Option("--type", help="Number format of a GGUF file: f16 (default), q8_0 or f32.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder (default: exports/NAME-FORM).")] = None,
) -> None:
    """Write a tuned model in a form that others load, with its cards, and check that it says the same.

    The folder is loaded again by transformers, peft or a GGUF reader, and its logits and greedy replies are compared
    with the trained model's. If they differ by more than the number format explains, nothing is left behind.

    Example: shinan export runs/quickstart --to gguf --type q8_0
    """
    from shinan.recipe.export import export_named

    folder, parity = export_named(model, to, type_=type_, out=out)
    print(*parity.lines(), sep="\n")
    print(f"export: {folder}")
