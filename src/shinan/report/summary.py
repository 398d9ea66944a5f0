"""The run in few words: one honest sentence, summary.json, and a table for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from shinan.report.collect import Comparison, Report, Stage
from shinan.report.wording import change, count, interval, metric_name, p_value, points, printable, share

Outcome = Literal["better", "worse", "unclear"]

_ALPHA = 0.05  # goes with the 95 % interval
_SOURCES = 20  # lines of the mixture's table on a terminal
_TRAINING = (
    "examples",
    "tokens",
    "labelled_tokens",
    "computed_tokens",
    "steps",
    "seconds",
    "tokens_per_second",
    "final_loss",
)
_EVALUATION = (
    "task",
    "metric",
    "n",
    "before",
    "after",
    "delta",
    "ci95",
    "p",
    "mde80",
    "truncated_before",
    "truncated_after",
)


def outcome(comparison: Comparison) -> Outcome:
    """What may be said: a difference counts when its interval leaves out 0 and its p-value is below 0.05."""
    if comparison.ci95 is None or (comparison.p is not None and comparison.p >= _ALPHA):
        return "unclear"
    low, high = comparison.ci95
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def verdict(report: Report) -> str:
    """One honest sentence on the first metric of the first evaluation task; the other tasks in a clause."""
    if not report.headlines:
        missing = ", ".join(report.missing) or "an evaluation"
        return f"Nothing can be said yet: before and after have not been compared (missing: {missing})."
    first, *others = report.headlines
    tail = _elsewhere(others)
    if outcome(first) != "unclear":
        return f"Tuned answers are {outcome(first)} on {first.task}: {_figures(report, first)}{tail}."
    unseen = (
        f"; a difference smaller than {points(first.mde80)} would be missed more than one time in five"
        if first.mde80  # all answers alike tell nothing of the spread: then it is 0
        else ""
    )
    return f"No difference could be shown on {first.task}: {_figures(report, first)}{unseen}{tail}."


def _figures(report: Report, comparison: Comparison) -> str:
    p = p_value(comparison.p)
    inner = [
        change(comparison.delta),
        f"95 % interval {interval(comparison.ci95)}" if comparison.ci95 else "no interval could be computed",
        *([f"p {p}" if p.startswith("<") else f"p = {p}"] if comparison.p is not None else []),
        f"{_items(comparison.n)}{_clusters(report, comparison)}",
    ]
    if comparison.unscored:
        inner.append(f"{count(comparison.unscored)} more could not be scored")
    cut = ""
    if comparison.truncated_before or comparison.truncated_after:
        before, after = count(comparison.truncated_before), count(comparison.truncated_after)
        cut = f"; cut at the length limit: {before} answers before, {after} after"
    scores = f"{points(comparison.after)} after, {points(comparison.before)} before"
    return f"{metric_name(comparison.metric)} {scores} ({', '.join(inner)}{cut})"


def _items(n: int) -> str:
    return f"{count(n)} item" if n == 1 else f"{count(n)} items"


def _clusters(report: Report, comparison: Comparison) -> str:
    """` of 34 tasks`, where the items belong to named tasks."""
    pairs = [pair for a in report.answers if a.task == comparison.task for pair in a.pairs(comparison.metric)]
    tasks = {before.task for before, _, _ in pairs if before.task != before.row}  # without a task, a row is its own
    return f" of {count(len(tasks))} task{'s' * (len(tasks) > 1)}" if tasks else ""


def _elsewhere(others: list[Comparison]) -> str:
    said: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
    for comparison in others:
        said[outcome(comparison)].append(comparison.task)
    words = {"better": "better on", "worse": "worse on", "unclear": "no difference shown on"}
    parts = [f"{words[kind]} {' and '.join(tasks)}" for kind, tasks in said.items() if tasks]
    return f"; elsewhere {', '.join(parts)}" if parts else ""


def summary(report: Report) -> dict[str, Any]:
    """What summary.json holds. Scores are as the scorers gave them (0 to 1); an unfinished part is empty."""
    return {
        "recipe": report.name,
        "model": report.model,
        "stages": [_stage(stage) for stage in report.stages if stage.manifest],
        "mixture": asdict(report.mixture) if report.mixture else {},
        "licences": dict(report.licences),
        "training": {name: report.training.get(name) for name in _TRAINING} if report.training else {},
        "evaluation": [{name: getattr(c, name) for name in _EVALUATION} for c in report.comparisons],
        "probes": [],
        "verdict": verdict(report),
        "wall_seconds": round(report.seconds, 2),
        "versions": dict(report.versions),
        "machine": dict(report.machine),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "id": stage.id,
        "use": stage.use,
        "seen": stage.tally.get("seen"),
        "kept": stage.tally.get("kept"),
        "dropped": dict(stage.tally.get("dropped", {})),
        "seconds": stage.manifest.seconds if stage.manifest else None,
    }


def terminal_table(report: Report) -> Table:
    """Before against after, one line a task and metric, under the verdict."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.title, table.title_justify, table.title_style = Text(printable(verdict(report))), "left", "bold"
    table.add_column("task")
    table.add_column("metric")
    for heading in ("items", "score", "change", "95 % interval", "p", "cut"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.caption = "score and cut (answers that reached the length limit): before → after"
    styles: dict[Outcome, str] = {"better": "green", "worse": "red", "unclear": ""}
    for row in report.comparisons:
        table.add_row(
            Text(printable(row.task)),
            Text(printable(metric_name(row.metric))),
            count(row.n),
            f"{points(row.before)} → {points(row.after)}",
            Text(change(row.delta), styles[outcome(row)]),
            interval(row.ci95),
            p_value(row.p),
            f"{count(row.truncated_before)} → {count(row.truncated_after)}",
        )
    return table


def rows_table(report: Report) -> Table:
    """What each stage that handles rows has seen, kept and dropped, and why; stages that are not done are left out."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("stage")
    for heading in ("seen", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("dropped")
    for stage in report.stages:
        if tally := stage.tally:
            reasons = ", ".join(f"{count(n)} {reason}" for reason, n in tally["dropped"].items())
            numbers = (count(tally["seen"]), count(tally["kept"]))
            table.add_row(Text(printable(stage.id)), *numbers, Text(printable(reasons)))
    return table


def mixture_table(report: Report) -> Table:
    """What each source of the mixture had and gave; empty for a run without one."""
    mixture = report.mixture
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    if mixture is None:
        return table
    title = f"The mixture: {count(mixture.written)} rows, {count(mixture.distinct)} of them different"
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    table.add_column("source")
    for heading in ("available", "share asked", "taken", "different", "copies", "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source in mixture.whole[:_SOURCES]:
        numbers = (count(source.available), share(source.share, 1), count(source.taken), count(source.distinct))
        table.add_row(Text(printable(source.path[0])), *numbers, count(source.copies), f"{source.epochs:.3g}")
    if (more := len(mixture.whole) - _SOURCES) > 0:
        table.caption = f"and {count(more)} more in the report"
    return table
