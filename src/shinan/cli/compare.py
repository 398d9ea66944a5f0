"""`shinan compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Side = "a sample log, a run folder (its tuned model) or a folder of `shinan eval`"


def compare(
    before: Annotated[Path, typer.Argument(help=f"The one side: {Side}.")],
    after: Annotated[Path, typer.Argument(help="The other side, asked the same items.")],
) -> None:
    """Compare two evaluations of the same items, item by item: change, interval and p-value.

    Example: shinan compare runs/eval-smollm2-135m-instruct runs/quickstart
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shinan.recipe.measure import compare_logs
    from shinan.report.wording import change, count, interval, metric_name, p_value, points, printable

    table = Table("task", "metric", "formats", box=None)
    for heading in ("items", "before", "after", "change", "95 % interval", "p", "detectable", "better/worse/same"):
        table.add_column(heading, justify="right")
    for row in compare_logs(before, after):
        low, high = row["ci95"]
        detectable = "–" if row["mde80"] is None else points(row["mde80"])
        table.add_row(
            Text(printable(row["task"])),
            Text(printable(metric_name(row["metric"]))),
            Text(printable(f"{row['style_before']}, {row['style_after']}")),
            count(row["n"]) + (f" (+{row['unscored']} not scored)" if row["unscored"] else ""),
            points(row["before"]),
            points(row["after"]),
            change(row["delta"]),
            interval(None if low is None else (low, high)),
            p_value(row["p"]),
            detectable,
            f"{row['wins']}/{row['losses']}/{row['ties']}",
        )
    Console().print(table)
