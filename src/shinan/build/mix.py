"""Which rows a mixture has, how often and in which order. Pure functions of (rows, rule, seed).

A row's rank is a hash of the seed, its build stage and its place there. Of every source the rows of lowest rank are
taken, and the order of the mixture is a hash too: another source, or more rows of one, changes which rows are taken
of the others only by how many.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from shinan.build.mixture import PRESETS, UNTAGGED, Mix
from shinan.build.shares import Names, Source, divide
from shinan.core.dataset import Judged, iter_rows
from shinan.core.errors import ConfigError, DataError, Problem, nearest
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.verdict import KEEP, Tally, Verdict

_HELD = 300_000_000  # bytes of rows in memory
_OBJECTS = 1500  # bytes that a row takes beside its text


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture, in positions of the rows that came in, counted from 0.

    Attributes:
        order: the row at each place of the mixture; one that is written again stands at several.
        verdicts: every verdict that there is; the first is to keep a row.
        judged: for each row, which of the verdicts it has.
        sources: what each source, and each part of one, had and gave (see `Source.facts`).
        length: characters of a row's messages, on average.
    """

    order: Sequence[int]
    verdicts: Sequence[Verdict]
    judged: Sequence[int]
    sources: Sequence[Mapping[str, Any]]
    length: int

    @property
    def tally(self) -> Tally:
        """Of different rows: one that is written again is kept once."""
        kept, *out = np.bincount(self.judged, minlength=len(self.verdicts)).tolist()
        reasons = Counter[str]()
        for verdict, number in zip(self.verdicts[1:], out, strict=True):
            reasons[verdict.reason] += number
        return Tally(kept, +reasons)

    def dropped(self) -> tuple[Sequence[int], Iterator[Verdict]]:
        """The rows that are left out, rising, and the verdict of each."""
        left = array("q", np.flatnonzero(self.judged).tobytes())
        return left, (self.verdicts[self.judged[row]] for row in left)


def mix(rows: Iterable[Example], rule: Mix, seed: int) -> Mixture:
    """Mix rows as the rule says. They are looked at once, in order; some 50 bytes are kept of each, not the row.

    Counts are exact: they add up to the total, and no source is a whole row away from its share of what encloses it.
    A source that is smaller than its share is written again, each row as often as the others or once more.
    Reasons of rows left out: over_cap, not_sampled.

    Raises:
        ConfigError: a tag that no row has, a name that no source has, or a source without a weight.
        DataError: no rows, a source with a weight and without rows, or a total that needs more than `max_epochs`.
    """
    seen = _look(rows, rule, seed)
    _check_names(rule, seen)
    ranking = np.argsort(np.frombuffer(seen.ranks, np.uint64), kind="stable")
    codes, judged = {KEEP: 0}, array("i", [0]) * len(ranking)
    for row, verdict in _over_caps(rule, seen, ranking):
        judged[row] = codes.setdefault(verdict, len(codes))
    tree = divide(rule, _available(seen, judged))
    unused = {leaf.path: codes.setdefault(_not_sampled(leaf), len(codes)) for leaf in tree.leaves()}
    places, keys = array("q"), array("Q")
    for row, copies in _copies(tree, seen, (row for row in map(int, ranking) if not judged[row])):
        if not copies:
            judged[row] = unused[seen.path(row)]
        for copy in range(copies):
            places.append(row)
            keys.append(derive_seed(seed, "mix/order", seen.ranks[row], copy))
    order = np.frombuffer(places, np.int64)[np.argsort(np.frombuffer(keys, np.uint64), kind="stable")]
    facts = [source.facts() for source in tree.walk()]
    return Mixture(array("q", order.tobytes()), list(codes), judged, facts, seen.characters // len(ranking))


def mixed(folder: Path, mixture: Mixture) -> Iterator[Judged]:
    """The rows of a dataset folder as they stand in its mixture, then those that are left out, in their own order.

    Of rows no more than `_HELD` bytes are in memory: the file is read again for every so many places of the mixture.
    """
    held = max(1, _HELD // (_OBJECTS + mixture.length))
    for start in range(0, len(mixture.order), held):
        places = mixture.order[start : start + held]
        once = sorted(set(places))
        rows = dict(zip(once, iter_rows(folder, once), strict=True))
        yield from (rows[place] for place in places)
        del rows  # before the next ones are read
    left, verdicts = mixture.dropped()
    yield from zip(iter_rows(folder, left), verdicts, strict=True)


@dataclass(slots=True)
class _Seen:
    """What is kept of the rows.

    Attributes:
        ranks: the rank of each row.
        cell: for each row, which of the cells it lies in.
        cells: combinations of a path and of a value for each cap.
        tags: every tag that a row has.
        characters: of all messages.
    """

    ranks: array[int] = field(default_factory=lambda: array("Q"))
    cell: array[int] = field(default_factory=lambda: array("i"))
    cells: list[tuple[Names, Names]] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    characters: int = 0

    def path(self, row: int) -> Names:
        """The source that a row belongs to."""
        return self.cells[self.cell[row]][0]


def _look(rows: Iterable[Example], rule: Mix, seed: int) -> _Seen:
    seen, known = _Seen(), dict[tuple[Names, Names], int]()
    divided, capped = [level.by for level in rule.levels], list(rule.caps)
    for row in rows:
        cell = tuple(_value(row, by) for by in divided), tuple(_value(row, by) for by in capped)
        origin = row.provenance
        seen.ranks.append(derive_seed(seed, "mix/row", _value(row, "build"), origin.source, origin.row))
        seen.cell.append(known.setdefault(cell, len(known)))
        seen.tags.update(row.tags)
        seen.characters += sum(len(part.text) for message in row.messages for part in message.parts)
    seen.cells = list(known)
    return seen


def _available(seen: _Seen, judged: Sequence[int]) -> Counter[Names]:
    """How many rows of each source no cap leaves out."""
    cells = np.frombuffer(seen.cell, np.intc)[np.equal(judged, 0)]
    available = Counter[Names]()
    for (path, _), number in zip(seen.cells, np.bincount(cells, minlength=len(seen.cells)).tolist(), strict=True):
        available[path] += number
    return available


def _value(row: Example, by: str) -> str:
    return row.task if by == "task" else row.tags.get(by, UNTAGGED)


def _check_names(rule: Mix, seen: _Seen) -> None:
    """Raises ConfigError for every name that no row has and every source without a weight.

    What a preset says within its sources may be absent: not every mixture has inverted tasks.
    """
    if not seen.cells:
        raise DataError("there are no rows to mix", where="mix", fix="add data, or loosen the checks under curate")
    own = Mix.model_validate({"preset": rule.preset}).levels[1:] if rule.preset in PRESETS else []
    problems: list[Problem] = []
    for depth, level in enumerate(rule.levels):
        where = "mix" + ".within" * depth
        names = {path[depth] for path, _ in seen.cells}
        weights = rule.epochs if depth == 0 and rule.epochs is not None else level.weights
        given = weights if isinstance(weights, dict) else dict.fromkeys(names, 1.0)
        if level not in own:
            rates = level.max_rate if isinstance(level.max_rate, dict) else {}
            problems += _unknown_tag(level.by, f"{where}.by", seen)
            problems += _unknown(rates, {name for path, _ in seen.cells for name in path[:depth]}, f"{where}.max_rate")
            if rule.preset and depth == 0 and given == PRESETS[rule.preset].get("weights"):
                problems += _absent(rule.preset, given, names)
            else:
                check = _emptied if level.by == "build" else _unknown
                problems += check(given, names, f"{where}.{'epochs' if weights is rule.epochs else 'weights'}")
        for name in sorted(names - given.keys()):
            problems.append(Problem(f"the source {name!r} has no weight", f"{where}.weights", "give it one, or 0"))
    for number, (by, limit) in enumerate(rule.caps.items()):
        problems += _unknown_tag(by, "mix.caps", seen)
        if isinstance(limit, dict):
            problems += _unknown(limit, {values[number] for _, values in seen.cells}, f"mix.caps.{by}")
    if problems:
        raise ConfigError(problems)


def _unknown_tag(by: str, where: str, seen: _Seen) -> Iterator[Problem]:
    if by not in ("task", "build", *seen.tags):
        yield Problem(f"no row has the tag {by!r}", where, nearest(by, {"task", "build", *seen.tags}))


def _unknown(given: Mapping[str, float], names: set[str], where: str) -> Iterator[Problem]:
    for name in sorted(given.keys() - names):
        yield Problem(f"no row belongs to {name!r}", f"{where}.{name}", nearest(name, names))


def _absent(preset: str, given: Mapping[str, float], names: set[str]) -> Iterator[Problem]:
    """Parts of a published mixture that no row belongs to."""
    if absent := sorted(given.keys() - names):
        there = ", ".join(f"{name}: {weight:g}" for name, weight in given.items() if name in names)
        fix = f"say `weights: {{{there}}}` beside it" if there else "tag the rows, or say your own `by` and `weights`"
        what = f"the preset {preset} has weights for {', '.join(absent)}, and no row belongs to them"
        yield Problem(what, "mix.weights", fix)


def _emptied(given: Mapping[str, float], names: set[str], where: str) -> Iterator[Problem]:
    """Build stages that a mixture counts on, of which curation has left nothing. (Names are checked in the recipe.)"""
    for name in sorted(name for name in given.keys() - names if given[name]):
        fix = "give it 0, or see what dropped its rows: `shinan peek runs/NAME/stages/curate --dropped`"
        yield Problem(f"no row of {name!r} is left", f"{where}.{name}", fix)


def _over_caps(rule: Mix, seen: _Seen, ranking: Iterable[int]) -> Iterator[tuple[int, Verdict]]:
    """The rows that a cap leaves out. A row counts for its caps only if it is within all of them."""
    counts = Counter[tuple[str, str]]()
    for row in map(int, ranking) if rule.caps else ():
        held = list(zip(rule.caps, seen.cells[seen.cell[row]][1], strict=True))
        full = next((place for place in held if counts[place] >= _limit(rule, *place)), None)
        if full is None:
            counts.update(held)
        else:
            yield row, _over_cap(*full, counts[full])


def _limit(rule: Mix, by: str, value: str) -> float:
    limit = rule.caps[by]
    return limit.get(value, inf) if isinstance(limit, dict) else limit


@lru_cache(maxsize=1024)
def _over_cap(by: str, value: str, limit: int) -> Verdict:
    return Verdict.drop("over_cap", f"{by} {value}: at most {limit:,} rows", "mix")


def _copies(tree: Source, seen: _Seen, ranking: Iterable[int]) -> Iterator[tuple[int, int]]:
    """How often each row is written: as often as the others of its source, or, those of lowest rank, once more."""
    leaves = {leaf.path: divmod(leaf.taken, leaf.available) for leaf in tree.leaves() if leaf.available}
    used = Counter[Names]()
    for row in ranking:
        path = seen.path(row)
        every, more = leaves[path]
        yield row, every + (used[path] < more)
        used[path] += 1


def _not_sampled(leaf: Source) -> Verdict:
    return Verdict.drop("not_sampled", f"{leaf.name}: {leaf.taken:,} of {leaf.available:,} rows are taken", "mix")
