"""`shinan report`: write the report.html and summary.json of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")]) -> None:
    """Write report.html and summary.json of a run again.

    Example: shinan report runs/quickstart
    """
    from rich.console import Console

    from shinan.report.collect import collect
    from shinan.report.html import write_report
    from shinan.report.summary import mixture_table, terminal_table

    page = write_report(folder)
    found = collect(folder)
    Console().print(terminal_table(found))
    if found.mixture:
        Console().print(mixture_table(found))
    print(f"report: {page}")
