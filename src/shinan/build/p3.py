"""Rows of annotated datasets in the words of PromptSource's templates, as P3 and T0's training set are made.

arXiv 2202.01279 and arXiv 2110.08207. A row that a template cannot be filled with is dropped with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from shinan.core.config import Config
from shinan.core.dataset import Judged
from shinan.core.errors import ConfigError, DataError, Problem, nearest
from shinan.core.example import Example, Provenance
from shinan.core.hashing import derive_seed, file_sha256
from shinan.core.registry import register
from shinan.core.verdict import Tally, Verdict
from shinan.formats.filling import FillingError
from shinan.formats.promptsource import LIMIT, P3Template, load_promptsource
from shinan.formats.rows import Row, Where, read_rows

FILE = "templates.yaml"
CAP = 500_000
"""Rows above which a dataset gives each template CAP / number of templates, in T0 (arXiv 2110.08207, section 5)."""

_WHERE = "build.p3"


class Source(Config):
    """One dataset: its templates and its rows."""

    templates: str
    """A templates.yaml, or a folder that has such files in it, at any depth."""
    rows: str
    """A file of rows, or hub:OWNER/NAME[:CONFIG][/SPLIT]."""
    fields: dict[str, str] = Field(default_factory=dict)
    """{what the templates call a field: what the rows call it}, where they differ."""
    licence: str = "unknown"
    """Under which the rows may be used, best as an SPDX id."""

    def files(self) -> list[Path]:
        """The template files, sorted. Empty if there are none."""
        path = Path(self.templates)
        return sorted(path.rglob(FILE)) if path.is_dir() else [path] if path.is_file() else []


Sources = Annotated[list[Source], Field(min_length=1)]


def _content(params: Mapping[str, Any]) -> list[str]:
    """Hashes of the files. A hub dataset is known by its name alone; what is wrong with a file is told on reading."""
    hashes = []
    for source in params["sources"]:
        with suppress(OSError, ValueError):  # ValueError: a NUL character in the name
            hashes += [file_sha256(path) for path in source.files()]
            hashes.append(file_sha256(Path(source.rows)))
    return hashes


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the sources, as far as their template files are there: a recipe may come before its data."""
    sources: list[Source] = params["sources"]
    for number, source in enumerate(sources):
        if not source.files() and Path(source.templates).parent.is_dir():
            yield _no_templates(number, source)
    yield from _same_rows(sources)
    there = [source for source in sources if source.files()]
    yield from _plans(there, params["original_task"], params["truncate"], params["cap"]).problems


@register("build", "p3", version=2, content=_content, check=_unfit)
def p3(
    seed: int,
    *,
    sources: Sources,
    templates_per_row: Literal["one", "all"] = "one",
    original_task: bool = False,
    truncate: PositiveInt | None = LIMIT,
    cap: PositiveInt | None = CAP,
    limit: PositiveInt | None = None,
) -> Iterator[Judged]:
    """Examples of annotated datasets in the words of PromptSource's templates, in the order of sources and rows.

    Each has the tag `submixture: t0`, which is what the mixture of FLAN 2022 calls them.

    Reasons of dropped rows: bad_template, bad_templates_file, unreadable (a row, or the rest of a file), and those of
    `formats.promptsource` (missing_field, empty, not_a_choice, ...).

    Args:
        seed: decides which template a row gets, which rows a cap leaves, and what templates draw.
        sources: the datasets, each {templates, rows, fields, licence}.
        templates_per_row: `one`, drawn for each row; or `all`, an example of each row for each template, as in T0.
        original_task: only templates that ask for what the dataset was made for, as in T0's evaluation.
        truncate: characters printed of a field; none for all.
        cap: a source of more rows gives each template this number divided by the number of its templates, as in T0
            (with `one`, so many on average); none for no cap. To count them, the rows are read once more, unless
            `limit` is no larger.
        limit: the first so many rows of each source.

    `bind` refuses two sources with the same rows, a name that none of the folders and files beside it has, and template
    files (where they are there already) of which none can be used, or that leave nothing to do.

    Raises:
        ConfigError: a template file or rows file that is not there, or what `bind` would refuse.
        DataError: no row fits any template.
        RunError: a hub dataset that cannot be loaded.
    """
    there = [source for source in sources if source.files()]
    planned = _plans(there, original_task, truncate, cap)
    problems = [*_missing(sources), *_same_rows(sources), *planned.problems]
    if problems:
        raise ConfigError([problem._replace(where=f"{_WHERE} {problem.where}") for problem in problems])
    return _judged(planned.plans, planned.dropped, _Rule(seed, templates_per_row == "all", cap, limit))


def _missing(sources: Sequence[Source]) -> Iterator[Problem]:
    """Everything that is not there."""
    for number, source in enumerate(sources):
        if not source.files():
            yield _no_templates(number, source)
        rows = Path(source.rows)
        if not source.rows.startswith("hub:") and not rows.is_file():
            yield Problem(f"no such file: {source.rows!r}", f"sources.{number}.rows", _beside(rows))


def _no_templates(number: int, source: Source) -> Problem:
    path = Path(source.templates)
    fix = f"name a folder that has a {FILE} in it" if path.exists() else _beside(path)
    return Problem(f"no {FILE} at {source.templates!r}", f"sources.{number}.templates", fix)


def _beside(path: Path) -> str:
    return nearest(path.name, [other.name for other in path.parent.glob("*")])


def _same_rows(sources: Sequence[Source]) -> Iterator[Problem]:
    for rows, count in Counter(source.rows for source in sources).items():
        if count > 1:
            fix = "name a folder that holds the templates of both"
            yield Problem(f"{count} sources have the rows {rows!r}", "sources", fix)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A source with its templates: those to use, and how many there are with those that are not."""

    source: Source
    templates: Sequence[P3Template]
    every: int


@dataclass(frozen=True, slots=True)
class _Planned:
    """The templates of each source; what cannot be used of their files, as dropped rows; and what stops the build."""

    plans: Sequence[_Plan]
    dropped: Sequence[Judged]
    problems: Sequence[Problem]


def _plans(sources: Sequence[Source], original: bool, limit: int | None, cap: int | None) -> _Planned:
    """Read the templates of each source.

    The build stops where no template is left of all, none of a source asks for the original task, two of a source have
    one name, or the cap is less than one row a template.
    """
    files = _Files(limit)
    plans, problems = [], []
    for source in sources:
        every = [made for path in source.files() for made in files.templates(path)]
        used = [made for made in every if made.original_task or not original]
        if used:
            plans.append(_Plan(source, used, len(every)))
        elif every:
            what = f"no template of {source.templates!r} asks for the original task"
            problems.append(Problem(what, "original_task", "leave the source or the option out"))
        for path, count in Counter(made.path for made in every).items():
            if count > 1:
                what = f"{count} templates are {path!r}, in different files"
                problems.append(Problem(what, "sources", f"take one out of {source.templates!r}"))
        if cap is not None and cap < len(every):
            what = f"{source.templates!r} has {len(every)} templates, so that a cap of {cap} gives each no row"
            problems.append(Problem(what, "cap", "raise it"))
    if not plans and not problems:
        problems = [problem._replace(where=f"sources {problem.where}") for problem in files.faults]
    return _Planned(plans, files.dropped, problems)


class _Files:
    """Template files, each read once. What cannot be used of them is kept as dropped rows."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.faults: list[Problem] = []
        self.dropped: list[Judged] = []
        self._read: dict[Path, Sequence[P3Template]] = {}

    def templates(self, path: Path) -> Sequence[P3Template]:
        if path not in self._read:
            faults: list[Problem] = []
            reason = "bad_template"
            try:
                self._read[path] = load_promptsource(path, limit=self.limit, refuse=faults.append)
            except ConfigError as error:
                reason, faults, self._read[path] = "bad_templates_file", list(error.problems), ()
            self.faults += faults
            for number, fault in enumerate(faults):
                self.dropped.append(_dropped(Provenance(str(path), number), reason, fault))
        return self._read[path]


def _dropped(place: Provenance, reason: str, fault: Problem | DataError, **known: Any) -> tuple[Example, Verdict]:
    return Example((), provenance=place, **known), Verdict.drop(reason, f"{fault.where}: {fault.what}", "p3")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which rows meet which templates."""

    seed: int
    every: bool
    cap: int | None
    limit: int | None


def _judged(plans: Sequence[_Plan], dropped: Sequence[Judged], rule: _Rule) -> Iterator[Judged]:
    yield from dropped
    tally, first = Tally(), ""
    for judged in (judged for plan in plans for judged in _applied(plan, rule)):
        if isinstance(judged, Example):
            tally.kept += 1
        else:
            tally.add(judged[1])
            first = first or judged[1].detail
        yield judged
    if not tally.kept:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tally.dropped.most_common(5))
        what = f"no row fits a template ({reasons}); the first: {first}"
        raise DataError(what, where=_WHERE, fix="see whether the templates are those of this dataset, and `fields`")


def _applied(plan: _Plan, rule: _Rule) -> Iterator[Judged]:
    """Every row of a source that is taken, with one of its templates or with all."""
    source, templates = plan.source, plan.templates
    renamed = set(source.fields.values())
    for number, attempt in _taken(plan, rule):
        if isinstance(attempt, DataError):
            yield _dropped(Provenance(source.rows, number, source.licence), "unreadable", attempt)
            continue
        where, row = attempt
        if renamed:
            named = {name: row[column] for name, column in source.fields.items() if column in row}
            row = {name: value for name, value in row.items() if name not in renamed} | named
        chosen = templates
        if not rule.every:
            draw = derive_seed(rule.seed, "build.p3/template", templates[0].dataset, number)
            chosen = [templates[draw % len(templates)]]
        for template in chosen:
            place = f"{source.rows}:{template.path}" if rule.every else source.rows
            try:
                made = template.apply(row, where, seed=rule.seed, licence=source.licence, source=place)
                yield made.tagged("submixture", "t0")
            except FillingError as error:
                origin = Provenance(place, number, source.licence, template.maker)
                yield _dropped(origin, error.reason, error, task=template.dataset, tags=template.tags)


_Attempt = tuple[Where, Row] | DataError  # a row, or why there is none


def _taken(plan: _Plan, rule: _Rule) -> Iterator[tuple[int, _Attempt]]:
    """The rows that limit and cap leave, numbered as in their file.

    A cap's rows are drawn in order and in constant memory: each with the chance that the number still wanted is of the
    number still to come (algorithm S, Knuth, The Art of Computer Programming, 3.4.2).
    """
    rows = plan.source.rows
    total = wanted = 0
    if rule.cap is not None and (rule.limit is None or rule.limit > rule.cap):
        total = sum(1 for _ in islice(_attempts(rows), rule.limit))
        if total > rule.cap:
            wanted = rule.cap // plan.every * (1 if rule.every else len(plan.templates))
    capped = wanted > 0
    for number, attempt in enumerate(islice(_attempts(rows), rule.limit)):
        if capped:
            chance = derive_seed(rule.seed, "build.p3/row", plan.templates[0].dataset, number) / 2**63
            if chance * (total - number) >= wanted:
                continue
            wanted -= 1
        yield number, attempt


def _attempts(rows: str) -> Iterator[_Attempt]:
    """The rows of a file or hub dataset, and in their places why there is none, last why reading ended early."""
    refused: list[DataError] = []
    try:
        for place in read_rows(rows, refused.append):
            yield from refused
            refused.clear()
            yield place
    except DataError as error:
        refused.append(error)
    yield from refused
