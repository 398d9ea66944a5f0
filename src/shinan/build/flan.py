"""Rows of an annotated dataset in the many forms of FLAN: templates, demonstrations, options, chain of thought."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from shinan.core.dataset import Judged
from shinan.core.errors import ConfigError, DataError, Problem, nearest, shown
from shinan.core.example import Example, Provenance
from shinan.core.hashing import content_hash, file_sha256
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.formats.annotated import RATIONALE, TemplateSet, load_set, set_path
from shinan.formats.flan import STYLES, Exemplar, Manner, Renderer, Style, question_key
from shinan.formats.hub import dataset_name
from shinan.formats.instances import Columns, Reading, RowError, reading
from shinan.formats.nested import flatten
from shinan.formats.rows import Row, Where, read_rows

Share = Annotated[float, Field(ge=0, le=1)]
Submixture = Literal["flan2021", "t0", "niv2", "cot", "dialog"]
_Attempt = tuple[Where, Row] | DataError  # a row, or why there is none
# Of UTF-8. On XQuAD and JSQuAD this counts 2 % too few (Chinese) to 18 % too many (English) of Gemma 3's tokens, but
# less than half of the Japanese and Chinese ones of a vocabulary made for English (SmolLM2's).
_BYTES_PER_TOKEN = 4


def _content(params: Mapping[str, Any]) -> list[str]:
    """Hashes of the rows and of the templates; a hub dataset is known by its name alone."""
    hashes = ["", ""]
    with suppress(OSError, ValueError):  # what is wrong is told on reading
        hashes[0] = file_sha256(Path(params["rows"]))
    with suppress(OSError, ValueError, ConfigError):
        hashes[1] = file_sha256(set_path(params["shape"]))
    return hashes


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that does not fit the shape or that would have no effect."""
    try:
        made = load_set(set_path(params["shape"]))
    except ConfigError as error:
        yield from (problem._replace(where=f"shape {problem.where}".rstrip()) for problem in error.problems)
        return
    spoken = params["prompts"] or params["language"]
    yield from _style_faults(made, params["styles"])
    yield from _few_shot_faults(params)
    yield from _prompt_faults(made, params["fields"], spoken, params["cot"])
    try:
        reading(made, params["fields"], params["values"] or {}, params["labels"])
    except ConfigError as error:
        yield from error.problems
    if params["kind"] and params["rows"].startswith("hub:"):
        yield Problem("no effect on a hub dataset", "kind", "remove it")


@register("build", "flan", version=3, content=_content, check=_unfit)
def flan(
    seed: int,
    *,
    shape: str,
    rows: str,
    fields: dict[str, Columns],
    values: dict[str, str] | None = None,
    labels: list[str] | dict[str, str] | None = None,
    records: str = "",
    kind: Literal["", "jsonl"] = "",
    id: str = "",  # noqa: A002 (what a recipe calls it)
    dataset: str = "",
    language: str = "en",
    prompts: str = "",
    licence: str = "unknown",
    submixture: Submixture | Literal[""] = "",
    styles: dict[Style, NonNegativeFloat] | None = None,
    templates: PositiveInt = 10,
    invert: NonNegativeFloat = 0.3,
    cot: Share | None = None,
    mixed: Share = 0.5,
    shots: Annotated[list[PositiveInt], Field(min_length=1)] | None = None,
    max_tokens: PositiveInt = 1920,
    tokenizer: str = "",
    pool: PositiveInt = 1000,
    limit: PositiveInt | None = None,
) -> Iterator[Judged]:
    """Examples of an annotated dataset, each row in one of many forms (see `formats.flan`), in the order of the rows.

    Memory holds `pool` rows and some 50 bytes for each row, by which rows that come twice are found. The draws of a
    row depend on its number; what its demonstrations are, on the first `pool` rows too.

    Args:
        seed: decides every draw.
        shape: a shape that there are templates for (`nli`, `extractive_qa`, ...), or a YAML file of your own.
        rows: a file, or `hub:OWNER/NAME[:CONFIG][/SPLIT]`.
        fields: {field of the shape: column, path (`answers.text`) or Jinja text}; `choices` may be a list of columns.
        values: {field of the shape: its value in every row}.
        labels: what the dataset's labels are in the shape: a list for 0, 1, ..., or {value: label}.
        records: lists that hold the rows, from outside inwards: `paragraphs.qas` for files like SQuAD's.
        kind: `jsonl` for JSON lines under another name.
        id: a column or path whose values must differ; rows that repeat one are dropped.
        dataset: its name, for tags and statistics (default: that of the file or hub dataset).
        language: of the rows.
        prompts: language of the prompts and label words, if another.
        licence: of the rows, best as an SPDX id.
        submixture: the part of the FLAN Collection that the rows count to, for the mixer.
        styles: {`zero_shot_options`, `zero_shot`, `few_shot_options`, `few_shot`: weight} (default: equal weights).
        templates: use the first so many of each list.
        invert: rows turned around for each that is not, as FLAN's CoT-II beside CoT.
        cot: share of the others that asks for the rationale (default: all of them where there is one).
        mixed: share of the few-shot rows whose demonstrations have templates of their own.
        shots: numbers of demonstrations, drawn with equal chance (default: 5, 2, 1).
        max_tokens: the longest few-shot prompt.
        tokenizer: a model whose tokens are counted, such as the recipe's (default: four bytes of UTF-8 count as one).
        pool: so many rows, the first, may be demonstrations.
        limit: take the first so many rows.

    `bind` refuses an unknown shape, a template set with faults, all that does not fit the shape, and options that would
    have no effect.

    Raises:
        ConfigError: a shape or a mapping that `bind` would refuse.
        DataError: a file that cannot be read, or none of whose first `pool` rows can be used.
        RunError, ModelError: a hub dataset or a tokenizer that cannot be loaded.
    """
    made, spoken = load_set(set_path(shape)), prompts or language
    read = reading(made, fields, values or {}, labels)
    reasons = _share_of_rationales(made, fields, spoken) if cot is None else cot
    drawn, count = tuple(shots or (5, 2, 1)), _counter(tokenizer)
    manner = Manner(_shares(made, styles), count, templates, invert, reasons, mixed, drawn, max_tokens)
    name = dataset or _name(rows)
    tags = {"dataset": name, "category": made.shape, "language": language, "prompt_language": spoken}
    base = Example(
        (),
        task=name,
        tags=tags | ({"submixture": submixture} if submixture else {}),
        provenance=Provenance(rows, 0, licence, f"template:{made.shape}"),
    )
    attempts = islice(_attempts(rows, kind, records), limit)
    return _judged(read, Renderer(made, spoken, manner, seed), base, id, attempts, pool)


def _judged(
    read: Reading, renderer: Renderer, base: Example, id_: str, attempts: Iterator[_Attempt], pool: int
) -> Iterator[Judged]:
    """Each row as an example, or dropped with its reason. The first `pool` rows are read at once."""
    head = list(islice(attempts, pool))
    work = _Work(read, replace(renderer, pool=_exemplars(read, head, base)), base, id_)
    return (work.judge(number, attempt) for number, attempt in enumerate(chain(head, attempts)))


@dataclass(slots=True)
class _Work:
    """What the rows of one dataset have in common, and what is known of those that came before."""

    read: Reading
    renderer: Renderer
    base: Example
    id: str
    seen: set[int] = field(default_factory=set)

    def judge(self, number: int, attempt: _Attempt) -> Judged:
        if isinstance(attempt, DataError):
            return self._drop(number, "unreadable", attempt)
        where, row = replace(attempt[0], row=number), attempt[1]
        try:
            instance = self.read.read(row, where)
            self._once("duplicate_row", "the same as an earlier row", instance.fields, where)
            if self.id:
                value = self.read.value(self.id, "id", row, where)
                self._once(
                    "duplicate_id", f"an earlier row has the {self.id} {shown(value)} too", ["id", str(value)], where
                )
            return self.renderer.render(number, instance, where, base=self.base)
        except RowError as error:
            return self._drop(number, error.reason, error)

    def _once(self, reason: str, what: str, value: Any, where: Where) -> None:
        # 64 bits: among 5 million rows one chance in a million that two that differ are taken for the same
        key = int(content_hash(value)[-16:], 16)
        if key in self.seen:
            raise RowError(reason, what, where=str(where), fix="take one of them out")
        self.seen.add(key)

    def _drop(self, number: int, reason: str, error: DataError) -> tuple[Example, Verdict]:
        verdict = Verdict.drop(reason, f"{error.where}: {error.what}", "flan")
        return self.base.at(self.base.provenance.source, number), verdict


def _attempts(rows: str, kind: str, records: str) -> Iterator[_Attempt]:
    """The rows of a file or hub dataset, and in their places what was wrong with those that cannot be read."""
    refused: list[DataError] = []
    read = read_rows(rows, refused.append, ending=f".{kind}" if kind else "")
    for place in flatten(read, records, refused.append) if records else read:
        yield from refused
        refused.clear()
        yield place
    yield from refused


def _exemplars(read: Reading, head: Sequence[_Attempt], base: Example) -> list[Exemplar]:
    """The rows that can be demonstrations: no two ask the same. Raises DataError if no row can be used."""
    exemplars: dict[str, Exemplar] = {}
    faults: list[DataError] = []
    for number, attempt in enumerate(head):
        try:
            if isinstance(attempt, DataError):
                raise attempt
            instance = read.read(attempt[1], replace(attempt[0], row=number))
        except DataError as error:
            faults.append(error)
        else:
            key = question_key(read.shape, instance)
            exemplars.setdefault(key, Exemplar(number, instance, key))
    if faults and not exemplars:
        what = f"none of the first {len(head)} rows can be used; the first: {faults[0].what}"
        raise DataError(what, where=faults[0].where, fix=faults[0].fix)
    return list(exemplars.values())


def _name(rows: str) -> str:
    """The name of a file without its endings, or of a hub dataset without its split."""
    return dataset_name(rows) if rows.startswith("hub:") else Path(rows.removesuffix(".gz")).stem


def _style_faults(made: TemplateSet, styles: Mapping[Style, float] | None) -> Iterator[Problem]:
    for style in styles or ():
        if style.endswith("options") and not made.has_options:
            what = f"the shape {made.shape} has no options to show"
            yield Problem(what, f"styles {style}", "use `zero_shot` and `few_shot`")
    if styles is not None and not sum(styles.values()):
        yield Problem("no style has a weight above 0", "styles", f"name some of: {', '.join(STYLES)}")


def _few_shot_faults(params: Mapping[str, Any]) -> Iterator[Problem]:
    styles = params["styles"]
    if styles and sum(styles.values()) and not any(styles.get(style) for style in STYLES if style.startswith("few")):
        for name in ("shots", "tokenizer"):
            if params[name]:
                yield Problem("no effect without a few-shot style", name, "remove it, or give `few_shot` a weight")


def _prompt_faults(
    made: TemplateSet, fields: Mapping[str, Columns], spoken: str, cot: float | None
) -> Iterator[Problem]:
    if spoken not in made.languages:
        what = f"the shape {made.shape} has no templates in {spoken!r}"
        fix = f"{nearest(spoken, made.languages)}; say with `prompts` in which language to ask"
        yield Problem(what, "prompts", fix)
    elif cot and not _share_of_rationales(made, fields, spoken):
        has = RATIONALE in made.fields and made.languages[spoken].reasoned
        what = "there is no rationale to ask for" if has else f"the shape {made.shape} has no chain of thought"
        yield Problem(what, "cot", f"map the field {RATIONALE!r}" if has else "take `cot` out")


def _share_of_rationales(made: TemplateSet, fields: Mapping[str, Columns], spoken: str) -> float:
    """All rows, where there are rationales and templates that ask for them; FLAN's CoT part has no others."""
    return float(RATIONALE in fields and bool(made.languages[spoken].reasoned))


def _shares(made: TemplateSet, styles: Mapping[Style, float] | None) -> dict[Style, float]:
    given: Mapping[Style, float] = styles or {s: 1.0 for s in STYLES if made.has_options or not s.endswith("options")}
    total = sum(given.values())
    return {style: given[style] / total for style in STYLES if given.get(style)}


def _counter(tokenizer: str) -> Callable[[str], int]:
    """Counts the tokens of a text."""
    if not tokenizer:
        return lambda text: -(-len(text.encode("utf-8")) // _BYTES_PER_TOKEN)
    from shinan.models.sources import resolve
    from shinan.models.tokenizer import Tokenizer

    encode = Tokenizer.load(resolve(tokenizer)).encode
    return lambda text: len(encode(text))
