"""`shinan compare`: two evaluations of the same items, compared item by item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Side = "a sample log, a run folder (its tuned model) or a folder of `shinan eval`"


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help=f"The one side: {Side}.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The other side, asked the same items.")],
) -> None:
    """Compare two evaluations of the same items, item by item: change, interval and p-value.

    Example: shinan compare runs/eval-smollm2-135m-instruct runs/quickstart
    """
    from rich.console import Console

    from shinan.recipe.measure import compare_logs

    rows = compare_logs(before, after)
    Console().print(_table(rows))
    for row in rows:
        print(_remark(row))


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from shinan.report.wording import change, count, interval, metric_name, p_value, points, printable

    table = Table("task", "metric", box=None)
    for heading in ("items", "before", "after", "change", "95 % interval", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        low, high = row["ci95"]
        table.add_row(
            Text(printable(row["task"])),
            Text(printable(metric_name(row["metric"]))),
            count(row["n"]),
            points(row["before"]),
            points(row["after"]),
            change(row["delta"]),
            interval(None if low is None else (low, high)),
            p_value(row["p"]),
        )
    return table


def _remark(row: dict[str, Any]) -> str:
    """What the table has no room for."""
    from shinan.report.wording import metric_name, points, printable

    formats = dict.fromkeys([row["style_before"], row["style_after"]])
    parts = [f"{row['wins']} better, {row['losses']} worse, {row['ties']} the same"]
    if row["unscored"]:
        parts.append(f"{row['unscored']} more could not be scored")
    if row["mde80"]:
        parts.append(f"a change below {points(row['mde80'])} would be missed more than one time in five")
    return printable(f"{row['task']}, {metric_name(row['metric'])} ({' and '.join(formats)}): {'; '.join(parts)}")
