"""Rows from Natural Instructions task files, with the held-out split of Super-NaturalInstructions."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, PositiveInt

from shinan.build.task_split import (
    BY,
    HELDOUT_CATEGORIES,
    WHERE,
    Head,
    Split,
    check_names,
    read_heads,
    read_table,
    side_of,
    told,
)
from shinan.core.dataset import Judged
from shinan.core.errors import DataError, Problem, nearest
from shinan.core.example import Example, Message, Provenance, assistant
from shinan.core.hashing import derive_seed, file_sha256
from shinan.core.registry import register
from shinan.core.verdict import KEEP, Tally, Verdict
from shinan.formats.instruction_encoding import (
    PARTS,
    TK_INSTRUCT,
    V1,
    V1_EXPLAINED,
    WORDINGS,
    Encoding,
    Wording,
    encode,
)
from shinan.formats.natural_instructions import ENDINGS, Fault, Instance, Task, read_task, task_name
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

TK_MAX_TOKENS = 1024  # Tk-Instruct's max_source_length
_MIX = "tk_instruct"

T = TypeVar("T")
Layout = Literal["tk_instruct", "v1", "parts"]


def _known_encoding(text: str) -> str:
    return text if text == _MIX else Encoding.parse(text).name


def _content(params: Mapping[str, Any]) -> list[list[str]]:
    """Hashes of the files and the table; what is wrong with them is told on reading."""
    found = []
    with suppress(OSError, ValueError, DataError):
        table = [Path(params["table"])] if params["table"] else []
        found = [[path.name, file_sha256(path)] for path in (*_files(params["path"]), *table)]
    return found


def _unfit(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Every option that would have no effect beside the others."""
    if params["split"] == "all" and params["heldout_categories"] is not None:
        yield Problem("no effect with `split: all`", "heldout_categories", "remove it")
    if params["layout"] != "tk_instruct" and params["wordings"] > 1:
        yield Problem(f"no effect with `layout: {params['layout']}`", "wordings", "remove one of the two")
    if params["max_tokens"] is not None and params["tokenizer"] is None:
        yield Problem("no tokenizer to count with", "max_tokens", "add `tokenizer`, best the model that is tuned")


@register("build", "natural_instructions", version=3, content=_content, check=_unfit)
def natural_instructions(
    seed: int,
    *,
    path: str | list[str],
    table: str | None = None,
    split: Split = "train",
    heldout_categories: list[str] | None = None,
    tasks: list[str] | None = None,
    instances_per_task: PositiveInt | None = None,
    limit: PositiveInt | None = None,
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "definition+2 positive",
    layout: Layout = "tk_instruct",
    wordings: Annotated[int, Field(ge=1, le=len(WORDINGS))] = 1,
    tokenizer: str | None = None,
    max_tokens: PositiveInt | None = None,
    licence: str = "unknown",
) -> Iterator[Judged]:
    """Examples of Natural Instructions task files (version 1 or 2), by task and instance, read as they are asked for.

    Every key of a file that is no text of an example is a tag; the tag `submixture` is what the mixture of FLAN 2022
    calls these tasks, `niv2`.

    Args:
        seed: decides which instances are taken, and what is drawn for each.
        path: a folder of .json or .json.gz task files, or a list of such files.
        table: a .csv file with columns `task`, `category` and `source`, for files that do not say them themselves; what
            it says of a task comes before what the file says.
        split: `heldout` (tasks of the held-out categories whose source is known), `train` (the other tasks, but none
            that shares a source dataset with a held-out one) or `all`.
        heldout_categories: instead of the twelve of Super-NaturalInstructions.
        tasks: names of the tasks to take, a file's name without its ending (default: all).
        instances_per_task: take at most this many instances of each task; which ones depends on no other task.
        limit: take at most this many in all: one of each task, then a second of each, and so on; fewer where a task has
            none left that fits.
        encoding: what is shown of a task, joined by `+`: `definition`, version 1's `title`, `prompt`, `avoid` and
            `caution`, `2 positive`, `2 negative` (examples), `explanations`. Or `tk_instruct`: one of Tk-Instruct's
            five, drawn for each instance.
        layout: `tk_instruct`, its text to the character; `v1`, the text of version 1's own encoder; or `parts`, hardly
            any words, for chat formats that place instruction, examples and input themselves (alpaca, plain).
        wordings: with layout `tk_instruct`, how many of ten wordings there are to draw from for each instance; the
            first is Tk-Instruct's.
        tokenizer: a model, such as starter:gemma-3-270m, whose tokens are counted. Without it no example is left out.
        max_tokens: with `tokenizer`, the longest prompt (default: Tk-Instruct's 1,024). Examples that do not fit are
            left out; an instance that does not even fit without any is dropped (Tk-Instruct cuts its end off).
        licence: of instances whose file names none.

    Raises:
        ConfigError: an unknown task or category.
        DataError: there are no task files, the table cannot be used, or no row is left. Any other fault drops a row, or
            a whole task as one row.
    """
    files = _files(path)
    heads = read_heads(files, read_table(table), split, counted=limit is not None)
    side = side_of(heads, split, heldout_categories or HELDOUT_CATEGORIES)
    check_names(heads, side, heldout_categories, tasks)
    chosen = [head for head in heads if head.path in side and (tasks is None or head.name in tasks)]
    shares = _shares(seed, [head for head in chosen if side[head.path].keep], instances_per_task, limit)
    encodings = TK_INSTRUCT if encoding == _MIX else (Encoding.parse(encoding),)
    maker = _Maker(seed, encodings, layout, wordings, _budget(tokenizer, max_tokens), licence)
    yield from _counted(_taken(chosen, side, shares, maker), len(files))


def _taken(
    chosen: Sequence[Head], side: Mapping[Path, Verdict], shares: Mapping[Path, int | None], maker: _Maker
) -> Iterator[Judged]:
    """The rows of the tasks that are taken, and one for each that is dropped whole."""
    for head in chosen:
        verdict = side[head.path]
        if verdict.keep:
            yield from _rows(head, shares[head.path], maker)
        else:
            yield _dropped(head.path, verdict)


def _counted(rows: Iterator[Judged], files: int) -> Iterator[Judged]:
    """The rows as they come. Raises DataError if none of them was kept."""
    tally, first = Tally(), ""
    for row in rows:
        tally.add(KEEP if isinstance(row, Example) else row[1])
        if not (first or isinstance(row, Example)):
            first = f"; the first: {row[0].row}: {row[1].detail}"
        yield row
    if not tally.kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in tally.dropped.most_common(5)) or "no task is on that side"
        fix = "see whether `split` and the categories fit these files, and read one of the files"
        raise DataError(f"no row is left of {files} task files ({reasons}){first}", where=f"{WHERE} path", fix=fix)


def _files(path: str | Sequence[str]) -> list[Path]:
    """The task files, sorted by name in a folder, in the order of a list. Raises DataError if there are none."""
    if isinstance(path, str) and Path(path).is_dir():
        found = sorted(file for file in Path(path).iterdir() if file.name.endswith(ENDINGS))
        if not found:
            raise DataError("no .json or .json.gz files", where=path, fix="name the folder of the task files")
        return found
    files = [Path(path)] if isinstance(path, str) else [Path(name) for name in path]
    for file in files:
        if not file.is_file():
            beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
            raise DataError("no such file or folder", where=str(file), fix=nearest(file.name, beside))
    if not files:
        raise DataError("an empty list of files", where=f"{WHERE} path", fix="name a folder or files")
    (most, times), *_ = Counter(files).most_common(1)
    if times > 1:
        raise DataError("this file is given twice", where=str(most), fix="keep one of the two")
    return files


def _shares(seed: int, heads: Sequence[Head], most: int | None, limit: int | None) -> dict[Path, int | None]:
    """How many instances of each task are taken: at most `most`, and of `limit` one each, then a second each, ..."""
    if limit is None:
        return {head.path: most for head in heads}
    shares = dict.fromkeys((head.path for head in heads), 0)
    usable = [head for head in heads if head.usable]
    waiting = sorted(usable, key=lambda head: derive_seed(seed, f"{WHERE}/task", head.name))
    while limit and waiting:
        for head in waiting[:limit]:
            shares[head.path] += 1
        limit = max(0, limit - len(waiting))
        waiting = [head for head in waiting if shares[head.path] < min(head.usable, most or head.usable)]
    return dict[Path, int | None](shares)


def _budget(tokenizer: str | None, max_tokens: int | None) -> Callable[[str], bool]:
    """Whether a prompt is short enough, as the tokenizer counts."""
    if tokenizer is None:
        return lambda _: True
    loaded, most = Tokenizer.load(resolve(tokenizer)), max_tokens or TK_MAX_TOKENS
    return lambda text: len(loaded.encode(text)) <= most


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the rows. What is drawn for one depends on the seed, the task's name and the instance's place alone."""

    seed: int
    encodings: Sequence[Encoding]
    layout: Layout
    wordings: int
    fits: Callable[[str], bool]
    licence: str

    def make(self, head: Head, task: Task, instance: Instance) -> Judged:
        """The row of an instance, or the verdict against it."""
        encoding = self._draw("encoding", task, instance, self.encodings)
        wording = self._wording(task, instance, encoding)
        try:
            encoded = encode(task, instance, encoding, wording, self.fits)
        except DataError as error:  # the tokenizer's
            return _dropped(head.path, Verdict.drop("not_tokenisable", error.what, BY), instance)
        tags = {
            "category": "; ".join(head.categories or task.categories),
            "dataset": "; ".join(head.sources or task.sources),
            "template": wording.name,
            "style": "few_shot" if encoded.shown else "zero_shot",
            "demonstrations": str(encoded.shown),
            "id": instance.id,
            "submixture": "niv2",
        }
        made = Example(
            (Message("user", encoded.parts), assistant(self._draw("output", task, instance, instance.outputs))),
            targets=instance.outputs,
            task=task.name,
            tags={**task.tags, **instance.tags, **{name: text for name, text in tags.items() if text}},
            provenance=Provenance(
                str(head.path),
                instance.row,
                task.licence or self.licence,
                f"template:natural_instructions/{encoding.name}",
            ),
        )
        if all(part.kind in ("input", "text") for part in encoded.parts):
            what = f"the file has nothing of the encoding {encoding.name!r}"
            return made, Verdict.drop("no_instruction", what, BY)
        return made if encoded.fits else (made, Verdict.drop("over_budget", "too long without any example", BY))

    def _wording(self, task: Task, instance: Instance, encoding: Encoding) -> Wording:
        if self.layout == "tk_instruct":
            return self._draw("wording", task, instance, WORDINGS[: self.wordings])
        if self.layout == "parts":
            return PARTS
        return V1_EXPLAINED if encoding.explanations else V1

    def _draw(self, what: str, task: Task, instance: Instance, options: Sequence[T]) -> T:
        if len(options) == 1:
            return options[0]
        return options[derive_seed(self.seed, f"{WHERE}/{what}", task.name, instance.row) % len(options)]


def _rows(head: Head, most: int | None, maker: _Maker) -> Iterator[Judged]:
    """The rows of a file in its order: every faulty instance, and `most` good ones, drawn by seed."""
    if most == 0 and head.usable:
        return
    try:
        task = read_task(head.path)
    except DataError as error:
        yield _dropped(head.path, Verdict.drop("unreadable_task", told(error), BY))
        return
    every = (maker.make(head, task, instance) for instance in task.instances)
    good = every if most is None else _drawn(head, task, most, maker)
    faults = (_dropped(head.path, Verdict.drop(fault.reason, fault.detail, BY), fault) for fault in task.faults)
    yield from heapq.merge(good, faults, key=_place)


def _drawn(head: Head, task: Task, most: int, maker: _Maker) -> list[Judged]:
    """`most` good rows and what had to be dropped on the way to them, in the file's order."""
    rows: list[Judged] = []
    turn = {i.row: derive_seed(maker.seed, f"{WHERE}/row", task.name, i.row) for i in task.instances}
    for instance in sorted(task.instances, key=lambda instance: turn[instance.row]):
        rows.append(maker.make(head, task, instance))
        most -= isinstance(rows[-1], Example)
        if not most:
            break
    return sorted(rows, key=_place)


def _place(row: Judged) -> int:
    return (row if isinstance(row, Example) else row[0]).provenance.row


def _dropped(path: Path, verdict: Verdict, item: Instance | Fault | None = None) -> tuple[Example, Verdict]:
    """A row that cannot be made: of an instance, or, standing for the whole task, of the file."""
    origin = Provenance(str(path), item.row if item else 0)
    tags = {"id": item.id} if item and item.id else {}
    return Example((), task=task_name(path), tags=tags, provenance=origin), verdict
