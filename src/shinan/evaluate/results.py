"""From two logs to what may be said: the fair style for `before`, and paired comparisons overall and by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shinan.core.errors import DataError
from shinan.evaluate.compare import compare
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
    """The style in which the model does best: `before` is to be prompted in its best format (promise 6)."""
    table = means(samples, [metric])
    return max(table, key=lambda style: -1.0 if table[style][metric] is None else float(table[style][metric] or 0.0))


def compare_samples(
    before: Sequence[Sample], after: Sequence[Sample], metrics: Sequence[str], *, task: str, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Paired comparisons on the same items: {evaluation: [one a metric], categories: [headline metric by category]}.

    The first metric is the headline: it chooses the style of `before`. Raises DataError if the items differ.
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
    names = sorted({old[row].category for row in rows} - {""})
    categories = []
    for name in names:
        members = [row for row in rows if old[row].category == name]
        categories.append(_row(old, new, members, metrics[0], seed) | {"task": task, "category": name})
    return {"evaluation": overall, "categories": categories}


def _row(
    old: Mapping[str, Sample], new: Mapping[str, Sample], rows: Sequence[str], metric: str, seed: int
) -> dict[str, Any]:
    found = asdict(
        compare(
            [old[row].scores[metric] for row in rows],
            [new[row].scores[metric] for row in rows],
            [old[row].task for row in rows],
            seed=seed,
        )
    )
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
