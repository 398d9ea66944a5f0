"""From two logs to results: the fair prompt style for `before`, and paired comparisons overall and by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from shinan.core.errors import DataError
from shinan.evaluate.compare import Comparison, compare
from shinan.evaluate.samples import Sample


def means(samples: Sequence[Sample], metrics: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """{style: {metric: mean of the scored samples}}; None where nothing could be scored."""
    table: dict[str, dict[str, float | None]] = {}
    for style in dict.fromkeys(sample.style for sample in samples):
        values = {m: [s.scores[m] for s in samples if s.style == style] for m in metrics}
        known = {m: [v for v in column if v is not None] for m, column in values.items()}
        table[style] = {m: sum(column) / len(column) if column else None for m, column in known.items()}
    return table


def best_style(samples: Sequence[Sample], metric: str) -> str:
    """The style in which the model does best: `before` is to be prompted in its best format (promise 6).

    Of equals, the first one asked. Raises DataError if no sample has a score.
    """
    known = {style: mean[metric] for style, mean in means(samples, [metric]).items()}
    scored = {style: mean for style, mean in known.items() if mean is not None}
    if not scored:
        raise DataError(
            f"none of the {len(samples)} answers has a score in {metric}",
            fix="ask items that this metric can score, or put another metric first",
        )
    return max(scored, key=scored.__getitem__)


def compare_samples(
    before: Sequence[Sample], after: Sequence[Sample], metrics: Sequence[str], *, task: str, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Paired comparisons on the same items: {evaluation: [one a metric], categories: [headline metric by category]}.

    The first metric is the headline: it chooses the style of `before`. A further metric or a category without any item
    scored on both sides has n 0 and no numbers. Raises DataError if the items differ or the headline has no such item.
    """
    style = best_style(before, metrics[0])
    old = {sample.row: sample for sample in before if sample.style == style}
    new = {sample.row: sample for sample in after}
    if old.keys() != new.keys():
        odd = sorted(old.keys() ^ new.keys())
        raise DataError(
            f"before and after were asked different items ({len(odd)} differ)",
            where=odd[0],
            fix="evaluate both on the same task with the same settings",
        )
    rows = sorted(old)
    overall = [_row(old, new, rows, metric, seed) | {"task": task, "style_before": style} for metric in metrics]
    if not overall[0]["n"]:
        raise DataError(
            f"none of the {len(rows)} items has a score in {metrics[0]} both before and after",
            where=task,
            fix="read the answers and see why they could not be scored, or put another metric first",
        )
    names = sorted({old[row].category for row in rows} - {""})
    categories = []
    for name in names:
        members = [row for row in rows if old[row].category == name]
        categories.append(_row(old, new, members, metrics[0], seed) | {"task": task, "category": name})
    return {"evaluation": overall, "categories": categories}


def _row(
    old: Mapping[str, Sample], new: Mapping[str, Sample], rows: Sequence[str], metric: str, seed: int
) -> dict[str, Any]:
    """One comparison, by task: `clusters` are the items' tasks.

    Items of a single task form one cluster, which has no interval. They are then their own clusters (`clustered_by`
    says so), and the interval speaks of further items of this task, no longer of further tasks.
    """
    scored = [row for row in rows if None not in (old[row].scores[metric], new[row].scores[metric])]
    single = len({old[row].task for row in scored}) == 1
    found: dict[str, Any] = dict.fromkeys(field.name for field in fields(Comparison))
    found |= dict.fromkeys(("n", "clusters", "wins", "losses", "ties"), 0)
    if scored:
        before, after = ([side[row].scores[metric] for row in scored] for side in (old, new))
        found = asdict(compare(before, after, [row if single else old[row].task for row in scored], seed=seed))
    found |= {"unscored": len(rows) - len(scored), "clustered_by": "item" if single else "task"}
    found["ci95"] = [found.pop("ci_low"), found.pop("ci_high")]
    ends = {
        f"{what}_{side}": sum(test(samples[row]) for row in rows)
        for side, samples in (("before", old), ("after", new))
        for what, test in (("truncated", _truncated), ("empty", _empty))
    }
    return {"metric": metric} | found | ends


def _truncated(sample: Sample) -> bool:
    return sample.finish == "length"


def _empty(sample: Sample) -> bool:
    return sample.empty
