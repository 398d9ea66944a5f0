"""`shinan doctor`: check this machine and, if one is named, the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path | None, typer.Argument(metavar="RUN", help="Also check the files of this run.")] = None,
) -> None:
    """Check this machine, and with RUN that every file of a run is still what was written.

    Example: shinan doctor runs/quickstart
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shinan.recipe.doctor import machine, verify
    from shinan.report.wording import printable

    findings = machine() + (verify(folder) if folder else [])
    table = Table("", "what", "found", box=None, show_header=False)
    for finding in findings:
        table.add_row(*(Text(printable(t)) for t in ("ok" if finding.ok else "!!", finding.what, finding.found)))
    Console().print(table)
    wrong = [finding for finding in findings if not finding.ok]
    for finding in wrong:
        print(f"{finding.what}: {finding.found}\n  do this: {finding.fix}")
    if wrong:
        raise typer.Exit(1)
