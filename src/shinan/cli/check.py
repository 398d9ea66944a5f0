"""`shinan check`: audit everything that a recipe would train on, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shinan.cli.run import Overrides, RecipeFile, RunName, RunsFolder, _load

if TYPE_CHECKING:
    from rich.console import Console

    from shinan.recipe.check import Checked
    from shinan.recipe.dryrun import Forecast
    from shinan.recipe.schema import Recipe
    from shinan.train.findings import Finding

_STYLES = {"stop": "bold red", "warn": "yellow", "ok": "green", "later": "dim"}


def check(
    recipe: RecipeFile,
    show: Annotated[int, typer.Option("--show", min=0, help="Show this many rows, trained tokens marked.")] = 0,
    dry: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Measure what the run will take.")] = True,
    set_: Overrides = None,
    name: RunName = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Build and curate the data, audit every row that would be trained on, and measure what the run will take.

    The model answers a few questions and does a few steps of tuning, which are then forgotten. With --show: rows that
    a check found fault with come first. Exit code 1 if something must stop a run.

    Example: shinan check recipes/quickstart.yaml --show 3
    """
    from rich.console import Console

    from shinan.recipe.check import check as check_recipe
    from shinan.report.wording import printable
    from shinan.train.findings import refuse

    loaded = _load(recipe, set_, name)
    checked = check_recipe(loaded, runs / loaded.name, measure=dry)
    console = Console(highlight=False)
    _print_checks(console, {finding.check: finding for finding in checked.findings})
    _print_run(console, checked, loaded)
    if checked.forecast:
        _print_forecast(console, checked.forecast)
    for finding in checked.findings:
        if finding.severity == "warn":
            told = f"\nwarning: {finding.where}: {finding.what}\n  do this: {finding.fix}"
            console.print(printable(told), markup=False, soft_wrap=True)
    if show:
        _print_rows(console, checked, show)
    refuse(checked.findings)


def _print_checks(console: Console, findings: Mapping[str, Finding]) -> None:
    """Every check with its result and how many rows have the fault."""
    from rich.table import Table
    from rich.text import Text

    from shinan.train.findings import AFTER, RULES

    table = Table("", "check", "rows", "what must hold", box=None)
    table.columns[2].justify = "right"
    for name, rule in RULES.items():
        found = findings.get(name)
        state = found.severity if found else "later" if name in AFTER else "ok"
        table.add_row(Text(state, _STYLES[state]), name, f"{found.count:,}" if found and found.rows else "", rule.looks)
    console.print(table)


def _print_run(console: Console, checked: Checked, recipe: Recipe) -> None:
    """What the settings amount to: two runs that differ in these are not comparable."""
    from shinan.report.wording import share

    tune, counts = recipe.tune, checked.counts
    each = {name: count / max(counts["rows"], 1) * tune.batch_size for name, count in counts.items()}
    console.print(
        f"\n{counts['rows']:,} rows in the format {checked.data.chat.name}, {counts['tokens']:,} tokens, "
        f"{counts['labelled']:,} of them trained ({share(counts['labelled'], counts['tokens'])})\n"
        f"{checked.steps:,} steps of {tune.batch_size} rows, about {each['tokens']:,.0f} tokens and "
        f"{each['labelled']:,.0f} labels each; rate {tune.learning_rate:g}, {tune.schedule}, "
        f"warm-up {tune.warmup:.0%} of the steps",
        markup=False,
        soft_wrap=True,
    )


def _print_forecast(console: Console, forecast: Forecast) -> None:
    """Time by part, memory and disk."""
    from shinan.core.progress import clock_text

    parts = ", ".join(f"{name} {clock_text(seconds)}" for name, seconds in forecast.seconds.items())
    console.print(
        f"\nmeasured: about {clock_text(sum(forecast.seconds.values()))} ({parts}); "
        f"memory {forecast.memory / 1e9:.1f} of {forecast.free_memory / 1e9:.1f} GB; "
        f"disk {forecast.disk / 1e9:.1f} of {forecast.free_disk / 1e9:.1f} GB",
        markup=False,
        soft_wrap=True,
    )


def _print_rows(console: Console, checked: Checked, number: int) -> None:
    """Rows as tokens: first those that findings name, then some evenly spread over the data."""
    from shinan.cli.peek import print_row
    from shinan.core.verdict import KEEP

    rows = {example.row: (example, verdict) for example, verdict in checked.data.dropped}
    kept = [(example, KEEP) for example in checked.data.kept]
    rows |= {example.row: (example, verdict) for example, verdict in kept}
    chosen = dict.fromkeys(row for finding in checked.findings for row in finding.rows)
    chosen |= dict.fromkeys(example.row for example, _ in kept[:: max(1, len(kept) // number)])
    console.print()
    for row in list(chosen)[:number]:
        print_row(console, *rows[row], checked.data.chat)
