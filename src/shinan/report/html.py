"""The report page: one file, no network, no script; everything in it is escaped and printable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from shinan.core.dataset import write_atomic
from shinan.core.licence import MEANINGS
from shinan.core.progress import clock_text
from shinan.evaluate.samples import Sample
from shinan.report import wording
from shinan.report.charts import dumbbell, funnel, loss_curves, mixture
from shinan.report.collect import Answers, Comparison, Report, collect
from shinan.report.summary import outcome, summary, verdict
from shinan.version import __version__

_SIDE = 3  # best and worst answers shown
_SOURCES = 30  # lines of the mixture's chart


@dataclass(frozen=True, slots=True)
class Showcase:
    """Answers side by side, chosen by rule: (before, after, difference)."""

    task: str
    metric: str
    gains: Sequence[tuple[Sample, Sample, float]]
    losses: Sequence[tuple[Sample, Sample, float]]


@dataclass(frozen=True, slots=True)
class Endings:
    """How one side's answers to an evaluation task ended; `length` is the median in tokens."""

    task: str
    side: str
    n: int
    stopped: int
    truncated: int
    empty: int
    length: float


def write_report(run: Path) -> Path:
    """Write `report.html` and `summary.json` into the run folder, finished or not; returns the page's path.

    Raises RunError for a folder that is no run or cannot be written, DataError for a damaged stage.
    """
    report = collect(run)
    text = json.dumps(summary(report), ensure_ascii=False, indent=1) + "\n"
    write_atomic(run / "summary.json", text.encode("utf-8", "replace"))
    page = run / "report.html"
    write_atomic(page, render(report))
    return page


def render(report: Report) -> str:
    """The page as text."""
    room = files("shinan.report")
    environment = SandboxedEnvironment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    for word in ("points", "change", "interval", "p_value", "count", "share", "metric_name", "excerpt"):
        environment.filters[word] = getattr(wording, word)
    environment.filters |= {"clock": clock_text, "outcome": outcome}
    template = environment.from_string((room / "page.html").read_text("utf-8"))
    first = report.headlines[0] if report.headlines else None
    page = template.render(
        report=report,
        style=Markup((room / "page.css").read_text("utf-8")),  # noqa: S704 (our own file)
        version=__version__,
        verdict=verdict(report),
        outcome=outcome(first) if first else "unfinished",
        first=first,
        dumbbells=[dumbbell(f"dumbbell{i}", [c, *_parts(report, c)]) for i, c in enumerate(report.headlines)],
        curves=loss_curves("loss", report.losses, report.validations) if report.losses else None,
        tallies=(tallies := [stage for stage in report.stages if stage.tally]),
        funnel=funnel("funnel", tallies) if tallies else None,
        sources=(sources := report.mixture.whole if report.mixture else []),
        mixture=mixture("mixture", sources[:_SOURCES]) if sources else None,
        terms=report.licences.get("terms", {}),
        meanings=MEANINGS,
        others=[c for c in report.categories if c.metric not in {whole.metric for whole in report.headlines}],
        parts=[part for c in report.headlines for part in _parts(report, c)],
        showcase=showcase(report),
        endings=[e for a in report.answers for e in endings(a)],
        caveats=caveats(report),
        probe=_flat(report.probe),
        machine=_flat(report.machine),
        settings=_flat(report.training.get("settings", {})),
    )
    return wording.printable(page)


def _shown(value: Any) -> Any:
    return "–" if value is None else value


def _parts(report: Report, whole: Comparison) -> list[Comparison]:
    """The categories of a task on the same metric, largest gain first."""
    parts = [c for c in report.categories if (c.task, c.metric) == (whole.task, whole.metric)]
    return sorted(parts, key=lambda c: (-c.delta, c.category))


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}" if name else str(key))]
    return [(name, json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value))]


def showcase(report: Report) -> Showcase | None:
    """The largest gains and the largest losses on the first metric of the first task, one item of a task at most."""
    if not report.headlines:
        return None
    first = report.headlines[0]
    pairs = next((a.pairs(first.metric) for a in report.answers if a.task == first.task), [])
    gains = sorted((p for p in pairs if p[2] > 0), key=lambda p: (-p[2], p[0].row))
    losses = sorted((p for p in pairs if p[2] < 0), key=lambda p: (p[2], p[0].row))
    return Showcase(first.task, first.metric, _one_a_task(gains), _one_a_task(losses))


def _one_a_task(pairs: Iterable[tuple[Sample, Sample, float]]) -> list[tuple[Sample, Sample, float]]:
    chosen: dict[str, tuple[Sample, Sample, float]] = {}
    for pair in pairs:
        chosen.setdefault(pair[0].task or pair[0].row, pair)
    return list(chosen.values())[:_SIDE]


def endings(answers: Answers) -> list[Endings]:
    """How the answers ended, before and after. An empty answer is counted as empty only."""
    found = []
    for side, samples in (("before", answers.before), ("after", answers.after)):
        if samples:
            full = [sample.finish for sample in samples if not sample.empty]
            length = median(sample.new_tokens for sample in samples)
            stops, cuts = full.count("stop"), full.count("length")
            found.append(Endings(answers.task, side, len(samples), stops, cuts, len(samples) - len(full), length))
    return found


def _caveats(c: Comparison) -> list[str]:
    said = []
    if c.truncated_before > c.truncated_after:
        more = c.truncated_before - c.truncated_after
        said.append(
            f"On {c.task}, {more} more answers were cut at the length limit before tuning than after. Part of the "
            "gain may be that the tuned model stops in time, not that it knows more."
        )
    if c.unscored:
        said.append(f"On {c.task}, {c.unscored} items could not be scored and are left out, not counted as wrong.")
    if c.mde80:
        size = wording.points(c.mde80)
        said.append(f"On {c.task}, a real change smaller than {size} would be missed more than one time in five.")
    if c.clustered_by == "item":
        said.append(
            f"All items of {c.task} belong to one task: the interval speaks of other items of that task, not of "
            "other tasks."
        )
    return said


def caveats(report: Report) -> list[str]:
    """What the numbers don't show, as far as this run's facts tell."""
    said = [caveat for comparison in report.headlines for caveat in _caveats(comparison)]
    for lost in report.unscored:
        what = f"{lost.category.replace('_', ' ')} ({lost.task})" if lost.category else lost.task
        metric = wording.metric_name(lost.metric)
        said.append(f"No item of {what} could be scored in {metric} (of {lost.n}): it is in no table and no chart.")
    if any(c.clustered_by == "item" for c in report.categories):
        said.append("In a category of one task, the interval speaks of other items of that task.")
    if any(c.metric.startswith("rouge") for c in report.comparisons):
        said.append(
            "ROUGE counts words shared with the accepted answers. A right answer in other words scores low, and a "
            "wrong one in similar words scores high: read the answers on this page."
        )
    if not report.decontaminated:
        said.append(
            "The rows that were trained on were not searched for the questions (`decontaminate: false`): some of these "
            "may be among them."
        )
    if len(report.categories) > 1:
        said.append(
            f"{len(report.categories)} comparisons of categories are shown without correction for their number: "
            "by chance alone, about one in twenty would leave out 0."
        )
    return [
        *said,
        "The intervals speak of other items of this kind. They don't cover another seed or another draw of the "
        "training data: this is one tuning run.",
        "No probe was run, so this page doesn't say how much of a change is format and how much is ability, what the "
        "model has forgotten, or what it has memorised.",
    ]
