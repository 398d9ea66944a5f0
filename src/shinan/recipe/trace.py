"""One row's life in a run, read from its artefacts: source, verdicts, steps, what is near it, the answers it got."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfuzz import process

from shinan.core.dataset import Manifest, read_dropped, read_rows
from shinan.core.errors import DataError, RunError
from shinan.core.example import Example
from shinan.core.text import words
from shinan.core.verdict import KEEP, Verdict
from shinan.evaluate.samples import Sample
from shinan.models.chat import ChatFormat
from shinan.recipe.named import chat_of, model_folder
from shinan.report.collect import Report, Stage, collect
from shinan.scorers.ngrams import Overlap
from shinan.scorers.rouge import rouge_of
from shinan.train.rows import plan_steps, split, steps_per_epoch

_ROWS = 5  # training rows shown beside an answer
_N = 8  # words of an n-gram: decontamination's own default (Tulu 3, arXiv 2411.15124)
_SHOWN = 4  # ids in an error


@dataclass(frozen=True, slots=True)
class Passage:
    """What one stage did with the row.

    Attributes:
        stage: the stage's id.
        use: its component.
        example: the row as the stage saw it, scores included.
        verdict: kept, or dropped by whom and why.
        passed: the checks that kept it, in order, where the stage has checks.
    """

    stage: str
    use: str
    example: Example
    verdict: Verdict = KEEP
    passed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """An optimiser step that trained on the row; epochs count from 1. `loss` is the whole step's."""

    step: int
    epoch: int
    loss: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """How tuning used the row: held for validation, or in these steps (none, if a partial epoch did not reach it)."""

    held: bool
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True, slots=True)
class Near:
    """A row on the other side, and how like it is.

    Attributes:
        example: the other row.
        rouge_l: F measure of the longest common subsequence of the two prompts' words, 0 to 1.
        share: of the held-out prompt's words, how many stand in n-grams that the training row has too, 0 to 1.
        n: words of an n-gram.
        training: how tuning used it, if it is a training row and tuning has finished.
    """

    example: Example
    rouge_l: float
    share: float
    n: int
    training: Training | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model answered to the row as an item of an evaluation task; None where it has not been asked yet."""

    task: str
    before: Sample | None
    after: Sample | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A row's life in a run.

    Attributes:
        passages: the stages that saw it, in the plan's order, once each; never empty.
        missing: planned stages that have not finished.
        trained: how tuning used it; one entry for each time it stands in the training rows.
        chat: the format it was trained in, None while (or since) there is no tuned model to read it from.
        nearest_item: for a training row, the held-out item that is most like it.
        answers: for an evaluation item, its answers, one entry a task.
        nearest_rows: for an evaluation item, the training rows that are most like it.
    """

    passages: tuple[Passage, ...]
    missing: tuple[str, ...]
    trained: tuple[Training, ...]
    chat: ChatFormat | None
    nearest_item: Near | None
    answers: tuple[Answered, ...]
    nearest_rows: tuple[Near, ...]


def trace(run: Path, wanted: str) -> Trace:
    """Follow a row of a run, finished or not: kept, dropped or an evaluation item.

    `wanted` is the row's name (`source#position`), its content id, or the beginning of either that fits no other row.

    Raises DataError if no row or several rows answer to it, and what `report.collect.collect` raises.
    """
    report = collect(run)
    seen = [passage for stage in report.stages for passage in _passages(stage)]
    row = _find(wanted, {(passage.example.row, passage.example.id) for passage in seen}, run)
    passages = tuple({_once(passage): passage for passage in seen if passage.example.row == row}.values())
    tuned, mixed, curated = (
        [passage.example for passage in seen if passage.stage == stage and passage.verdict.keep]
        for stage in ("tune", "mix", "curate")
    )
    training = _training(report, tuned)
    taught = tuned if training else mixed or curated
    items = {p.example.row: p.example for p in seen if _is_item(p)}
    n = _gram(report.stages)
    item, example = items.get(row), next((p.example for p in passages if not _is_item(p)), None)
    return Trace(
        passages,
        tuple(report.missing),
        tuple(training[i] for i, other in enumerate(taught) if training and other.row == row),
        _chat(run) if example else None,
        _near_item(example, items.values(), n) if example else None,
        tuple(_answers(report, passages)),
        tuple(_near_rows(item, taught, training, n)) if item else (),
    )


def _passages(stage: Stage) -> Iterator[Passage]:
    if not stage.manifest or not stage.tally:  # unfinished, or no rows go through it
        return
    checks = _checks(stage.manifest)
    for example in read_rows(stage.folder):
        yield Passage(stage.id, stage.use, example, KEEP, checks)
    for example, verdict in read_dropped(stage.folder):
        passed = checks[: checks.index(verdict.by)] if verdict.by in checks else ()
        yield Passage(stage.id, stage.use, example, verdict, passed)


def _once(passage: Passage) -> tuple[str, str, Verdict]:
    """The same for all copies of a row that a mixture writes again."""
    return passage.stage, passage.example.tags.get("build", ""), passage.verdict


def _checks(manifest: Manifest) -> tuple[str, ...]:
    names = [check["use"].removeprefix("check.") for check in manifest.identity.get("checks", ())]
    first = ["licences"] if manifest.identity.get("licences") else []
    return (*first, *names, *(["overlap"] if manifest.identity.get("decontaminate") else []))


def _is_item(passage: Passage) -> bool:
    return passage.stage.startswith("items.")


def _find(wanted: str, known: Iterable[tuple[str, str]], run: Path) -> str:
    """The one row of that name or content id, else of that beginning."""
    names = [(row, name) for row, id_ in known for name in (row, id_, id_.removeprefix("b2:"))]
    rows = sorted({row for row, name in names if name == wanted})
    rows = rows or sorted({row for row, name in names if wanted and name.startswith(wanted)})
    if len(rows) == 1:
        return rows[0]
    if rows:
        more = ", …" if len(rows) > _SHOWN else ""
        fix = f"name one of them: {', '.join(rows[:_SHOWN])}{more}"
        raise DataError(f"{len(rows)} rows answer to {wanted!r}", where=str(run), fix=fix)
    near = [name for name, _, _ in process.extract(wanted, sorted({row for row, _ in names}), limit=3)]
    fix = f"did you mean {' or '.join(near)}?" if near else "run it until its first stage has finished"
    raise DataError(f"no row of this run is named {wanted!r}", where=str(run), fix=fix)


def _training(report: Report, rows: Sequence[Example]) -> list[Training]:
    """How tuning used each of the rows that its stage kept; empty while it has not finished."""
    tune = next((stage.manifest for stage in report.stages if stage.id == "tune"), None)
    if tune is None:
        return []
    settings, seed = tune.facts["settings"], tune.identity["seed"]
    trained, _ = split([row.row for row in rows], settings["validation"], seed)
    losses = {point.step: point.loss for point in report.losses}
    lessons: dict[int, list[Lesson]] = {index: [] for index in trained}
    per_epoch = steps_per_epoch(len(trained), settings["batch_size"])
    for number, places in enumerate(_steps([rows[index] for index in trained], settings, seed)):
        for place in places:
            lesson = Lesson(number + 1, number // per_epoch + 1, losses.get(number + 1))
            lessons[trained[place]].append(lesson)
    return [Training(index not in lessons, tuple(lessons.get(index, ()))) for index in range(len(rows))]


def _steps(rows: Sequence[Example], settings: Mapping[str, Any], seed: int) -> Iterator[Sequence[int]]:
    """The plan of `train.engine`: for each optimiser step, which of the rows it trained on."""
    return plan_steps(
        len(rows),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=seed,
        tasks=[row.task for row in rows],
        together=settings.get("instances_per_prompt", 1),  # a run of an earlier version has no such setting
    )


def _gram(stages: Iterable[Stage]) -> int:
    """The n of the run's own decontamination."""
    rules = [stage.manifest.identity.get("decontaminate") for stage in stages if stage.manifest]
    return next((int(rule["n"]) for rule in rules if rule), _N)


def _chat(run: Path) -> ChatFormat | None:
    try:
        return chat_of(model_folder(str(run)), None)
    except RunError:
        return None


def _near_item(row: Example, items: Iterable[Example], n: int) -> Near | None:
    """The item of which a training row holds the most, or, among equals (none, as a rule), the highest ROUGE-L."""
    near = (Near(item, _rouge(item, row), _index(item, n).coverage(_text(row)).share, n) for item in items)
    return max(near, key=_likeness, default=None)


def _near_rows(item: Example, rows: Sequence[Example], training: Sequence[Training], n: int) -> list[Near]:
    index = _index(item, n)
    uses: Sequence[Training | None] = training or [None] * len(rows)
    once = {(row.row, row.id): (row, use) for row, use in zip(rows, uses, strict=True)}  # not each copy of a row
    near = (Near(row, _rouge(item, row), index.coverage(_text(row)).share, n, use) for row, use in once.values())
    return heapq.nlargest(_ROWS, near, key=_likeness)


def _likeness(near: Near) -> tuple[float, float]:
    return near.share, near.rouge_l


def _rouge(item: Example, row: Example) -> float:
    return rouge_of(words(row.prompt_text), words(item.prompt_text)).f


def _index(item: Example, n: int) -> Overlap:
    return Overlap([(item.row, item.prompt_text)], n)


def _text(row: Example) -> str:
    return "\n\n".join(message.text for message in (*row.messages, *row.rejected))


def _answers(report: Report, passages: Iterable[Passage]) -> Iterator[Answered]:
    for stage in (passage for passage in passages if _is_item(passage)):
        for answers in report.answers:
            if stage.stage == f"items.{answers.task}":
                row = stage.example.row
                before, after = ({s.row: s for s in side}.get(row) for side in (answers.before, answers.after))
                yield Answered(answers.task, before, after)
