"""Run folder -> Report. A stage counts once it has its manifest; what is not there yet is named, not guessed."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shinan.core.config import load_yaml
from shinan.core.dataset import Manifest, read_dropped, read_manifest, read_rows
from shinan.core.errors import DataError, ModelError, RunError
from shinan.core.example import Example
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.card import CARD, Card, load_card
from shinan.report.mixture import Mixture, mixture_of

_SHOWN = 2  # dropped rows shown for each reason


@dataclass(frozen=True, slots=True)
class Stage:
    """A planned stage; `manifest` is None while it is unfinished."""

    id: str
    use: str
    key: str
    folder: Path
    manifest: Manifest | None

    @property
    def tally(self) -> Mapping[str, Any]:
        """{seen, kept, dropped{reason: n}}; empty for a stage that handles no rows."""
        return self.manifest.tally if self.manifest else {}


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """One row that a stage dropped, as a person reads it."""

    row: str
    detail: str
    by: str
    prompt: str
    reply: str


@dataclass(frozen=True, slots=True)
class Drop:
    """What one stage dropped for one reason: how many rows, and the first few."""

    stage: str
    reason: str
    n: int
    examples: tuple[DroppedRow, ...]


@dataclass(frozen=True, slots=True)
class LossPoint:
    """A loss after `tokens` tokens of training."""

    step: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A sample reply written while tuning went on."""

    step: int
    row: str
    prompt: str
    target: str
    reply: str


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one evaluation task; `styles` are the mean scores of every prompt style tried before tuning."""

    task: str
    before: tuple[Sample, ...]
    after: tuple[Sample, ...]
    style: str = ""
    styles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def pairs(self, metric: str) -> list[tuple[Sample, Sample, float]]:
        """(before, after, difference) of every item that was scored on both sides."""
        first = {sample.row: sample for sample in self.before}
        found = []
        for after in self.after:
            before, new = first.get(after.row), after.scores.get(metric)
            old = before.scores.get(metric) if before else None
            if before and old is not None and new is not None:
                found.append((before, after, new - old))
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Before against after on one metric, for a whole evaluation task or (`category` set) for a part of it.

    Attributes:
        n: items scored on both sides; `unscored` ones are left out.
        ci95: interval of `delta`, None where none could be computed.
        p: p-value of the paired test.
        mde80: the smallest difference that would be found four times in five.
        clustered_by: `task`, or `item` where all items belong to one task.
    """

    task: str
    metric: str
    n: int
    before: float
    after: float
    delta: float
    ci95: tuple[float, float] | None
    p: float | None
    category: str = ""
    unscored: int = 0
    mde80: float | None = None
    wins: int = 0
    losses: int = 0
    ties: int = 0
    truncated_before: int = 0
    truncated_after: int = 0
    empty_before: int = 0
    empty_after: int = 0
    clustered_by: str = "task"


@dataclass(frozen=True, slots=True)
class Unscored:
    """A metric, or (`category` set) a part of an evaluation task, of which no item was scored on both sides."""

    task: str
    metric: str
    category: str
    n: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder of the run, and the text of the notices that travel with it."""

    card: Card
    notices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page, summary.json and the terminal say of a run.

    Attributes:
        decontaminated: whether rows that hold much of a held-out item were left out, as they are by default.
    """

    name: str
    model: str
    seed: int | None
    recipe: str
    stages: tuple[Stage, ...]
    probe: Mapping[str, Any]
    versions: Mapping[str, Any]
    machine: Mapping[str, Any]
    training: Mapping[str, Any]
    losses: tuple[LossPoint, ...]
    validations: tuple[LossPoint, ...]
    replies: tuple[Reply, ...]
    comparisons: tuple[Comparison, ...]
    categories: tuple[Comparison, ...]
    unscored: tuple[Unscored, ...]
    answers: tuple[Answers, ...]
    composition: Mapping[str, Mapping[str, int]]
    drops: tuple[Drop, ...]
    mixture: Mixture | None
    licences: Mapping[str, Mapping[str, int]]
    decontaminated: bool
    models: tuple[Model, ...]
    problems: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Ids of the planned stages that have not finished."""
        return [stage.id for stage in self.stages if stage.manifest is None]

    @property
    def headlines(self) -> list[Comparison]:
        """The comparison on the first metric of each evaluation task; the first task leads."""
        first: dict[str, Comparison] = {}
        for comparison in self.comparisons:
            first.setdefault(comparison.task, comparison)
        return list(first.values())

    @property
    def seconds(self) -> float:
        """Wall time of all finished stages, those reused from another run included."""
        return sum(stage.manifest.seconds for stage in self.stages if stage.manifest)


def collect(run: Path) -> Report:
    """Read a run folder, finished or not.

    Raises:
        RunError: the folder is no run, or its plan cannot be read.
        DataError: a finished stage's file is damaged or missing.
    """
    recipe, plan = _open(run)
    stages = _stages(run, plan)
    facts = {stage.id: stage.manifest.facts for stage in stages if stage.manifest}
    rules = {stage.id: stage.manifest.identity for stage in stages if stage.manifest}
    compared = facts.get("compare", {})
    losses, validations = _curves(run / "metrics.jsonl")
    models, problems = _models([run / "checkpoints", *(stage.folder for stage in stages)])
    return Report(
        name=str(recipe.get("name", run.resolve().name)),
        model=str(recipe.get("model", "not stated")),
        seed=recipe.get("seed"),
        recipe=(run / "recipe.yaml").read_text("utf-8-sig"),
        stages=stages,
        probe=plan.get("probe", {}),
        versions=plan.get("versions", {}),
        machine=plan.get("machine", {}),
        training=facts.get("tune", {}),
        losses=losses,
        validations=validations,
        replies=_replies(run / "samples.jsonl"),
        comparisons=tuple(_comparison(value) for value in compared.get("evaluation", []) if value["n"]),
        categories=tuple(_comparison(value) for value in compared.get("categories", []) if value["n"]),
        unscored=tuple(
            Unscored(value["task"], value["metric"], value.get("category", ""), value["unscored"])
            for rows in compared.values()
            for value in rows
            if not value["n"]
        ),
        answers=tuple(_answers(run, task, facts) for task in _tasks(stages)),
        composition=_composition(_kept(stages)),
        drops=tuple(drop for stage in stages for drop in _drops(stage)),
        mixture=mixture_of(facts["mix"]) if "mix" in facts else None,
        licences=facts.get("mix", facts.get("curate", {})).get("licences", {}),
        decontaminated=rules.get("curate", {}).get("decontaminate") is not False,
        models=tuple(models),
        problems=tuple(problems),
    )


def finished_in(run: Path) -> set[str]:
    """Ids of the stages that have finished as the run's plan has them. Raises RunError as `collect` does."""
    _, plan = _open(run)
    return {stage.id for stage in _stages(run, plan) if stage.manifest}


def _stages(run: Path, plan: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The planned stages. What is left in their folders of an earlier recipe has another key, and does not count."""
    made = []
    for entry in plan.get("stages", []):
        folder = run / "stages" / entry["id"]
        found = read_manifest(folder)
        mine = found is not None and found.key == entry["key"]
        made.append(Stage(entry["id"], entry["use"], entry["key"], folder, found if mine else None))
    return tuple(made)


def _open(run: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    recipe_path, plan_path = run / "recipe.yaml", run / "plan.json"
    if not recipe_path.is_file():
        what = "this is no run folder: it has no recipe.yaml" if run.is_dir() else "no such folder"
        raise RunError(what, where=str(run), fix="name a folder that `shinan run` has made")
    recipe = load_yaml(recipe_path).data
    try:
        plan = json.loads(plan_path.read_text("utf-8")) if plan_path.exists() else {}
        if not _is_plan(plan):
            raise ValueError("not the stages of a run")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read the plan: {error}", where=str(plan_path), fix="run the recipe again") from error
    return (recipe if isinstance(recipe, dict) else {}), plan


def _is_plan(value: Any) -> bool:
    stages = value.get("stages", []) if isinstance(value, dict) else None
    texts = ("id", "use", "key")
    return isinstance(stages, list) and all(
        isinstance(stage, dict) and all(isinstance(stage.get(name), str) for name in texts) for stage in stages
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a last line that is still being written is left out."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "delete the stage's folder and run again"
        raise DataError(f"cannot read it: {error}", where=str(path), fix=fix) from error
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            where, fix = f"{path}:{number}", "delete the stage's folder and run again"
            raise DataError(f"not a line of JSON: {error}", where=where, fix=fix) from error


def _curves(path: Path) -> tuple[tuple[LossPoint, ...], tuple[LossPoint, ...]]:
    """Training and validation losses over the tokens trained on so far."""
    losses: list[LossPoint] = []
    validations = []
    for number, line in enumerate(_lines(path) if path.exists() else (), 1):
        tokens = losses[-1].tokens if losses else 0
        try:
            if "loss" in line:
                losses.append(LossPoint(line["step"], tokens + line["tokens"], line["loss"]))
            else:
                validations.append(LossPoint(line["step"], tokens, line["validation_loss"]))
        except (KeyError, TypeError) as error:
            where, fix = f"{path}:{number}", "delete the stage's folder and run again"
            raise DataError("not the losses of a step", where=where, fix=fix) from error
    return tuple(losses), tuple(validations)


def _replies(path: Path) -> tuple[Reply, ...]:
    try:
        return tuple(Reply(**line) for line in (_lines(path) if path.exists() else ()))
    except TypeError as error:
        fix = "delete the stage's folder and run again"
        raise DataError("not a sample reply", where=str(path), fix=fix) from error


def _number(value: float | None) -> float | None:
    """None for what is not a number: a statistic of too few items."""
    return None if value is None or math.isnan(value) else value


def _comparison(value: Mapping[str, Any]) -> Comparison:
    low, high = map(_number, value["ci95"] or (None, None))
    read = {name: value[name] for name in Comparison.__dataclass_fields__ if name in value}
    return Comparison(
        **read
        | {
            "ci95": None if low is None or high is None else (low, high),
            "p": _number(value["p"]),
            "mde80": _number(value.get("mde80")),
        }
    )


def _tasks(stages: Iterable[Stage]) -> list[str]:
    """Evaluation tasks in the plan's order, from the stage ids `evaluate.TASK.before` and `.after`."""
    names = [stage.id.split(".", 1)[1].rpartition(".")[0] for stage in stages if stage.id.startswith("evaluate.")]
    return list(dict.fromkeys(names))


def _answers(run: Path, task: str, facts: Mapping[str, Mapping[str, Any]]) -> Answers:
    sides: dict[str, tuple[Sample, ...]] = {"before": (), "after": ()}
    for side in sides:
        found = facts.get(f"evaluate.{task}.{side}")
        if found is not None:
            samples = read_samples(run / "eval" / f"{task}.{side}.jsonl")
            sides[side] = tuple(s for s in samples if s.style == found.get("style", s.style))
    before = facts.get(f"evaluate.{task}.before", {})
    return Answers(task, sides["before"], sides["after"], before.get("style", ""), before.get("styles", {}))


def _kept(stages: Iterable[Stage]) -> list[Example]:
    """The rows of the last finished stage that made any: what is trained on. All `build` stages count as one."""
    done = [s for s in stages if s.manifest and (s.folder / "data.parquet").is_file()]
    for kind in ("tune", "mix", "curate", "build"):
        if last := [stage for stage in done if stage.id.split(".")[0] == kind]:
            return [example for stage in last for example in read_rows(stage.folder)]
    return []


def _composition(rows: Iterable[Example]) -> dict[str, dict[str, int]]:
    """{property: {value: rows}}, values by falling count."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("language", "category", "maker", "licence")}
    for example in rows:
        for name in ("language", "category"):
            counts[name][example.tags.get(name, "not stated")] += 1
        counts["maker"][example.provenance.maker] += 1
        counts["licence"][example.provenance.licence] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items() if counter}


def _drops(stage: Stage) -> list[Drop]:
    counts = stage.tally.get("dropped", {})
    if not counts:
        return []
    shown: defaultdict[str, list[DroppedRow]] = defaultdict(list)
    for example, verdict in read_dropped(stage.folder):
        if len(shown[verdict.reason]) < _SHOWN:
            row = DroppedRow(example.row, verdict.detail, verdict.by, example.prompt_text, example.reply or "")
            shown[verdict.reason].append(row)
    return [Drop(stage.id, reason, n, tuple(shown[reason])) for reason, n in counts.items()]


def _models(roots: Iterable[Path]) -> tuple[list[Model], list[str]]:
    """Every model folder under the roots, each fingerprint once, and what was wrong with the others."""
    found: dict[str, Model] = {}
    problems = []
    for path in sorted(card for root in roots for card in root.glob(f"**/{CARD}")):
        try:
            card = load_card(path.parent)
            notices = {name: (path.parent / name).read_text("utf-8", errors="replace") for name in card.notices}
        except (ModelError, OSError) as error:
            problems.append(str(error))
            continue
        found.setdefault(card.fingerprint, Model(card, notices))
    return list(found.values()), problems
