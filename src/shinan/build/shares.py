"""How many rows each source of a mixture gives: exact arithmetic on counts, from the rule to whole rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

from shinan.build.mixture import Division, Mix
from shinan.core.errors import DataError

Names = tuple[str, ...]
"""Names of a source and of the sources around it, outermost first."""

_DIGITS = 12  # of a power: what machines agree on


@dataclass(slots=True)
class Source:
    """Rows that are given one share.

    Attributes:
        path: its name, after those of the sources around it; empty for the whole mixture.
        available: rows that may be taken.
        share: its part of what encloses it, 0 to 1.
        parts: the sources within it; none if it is not divided.
        taken: rows written, each copy counted.
    """

    path: Names
    available: int
    share: Fraction = Fraction(1)
    parts: Sequence[Source] = ()
    taken: int = 0
    _whole: Fraction = field(default=Fraction(1), repr=False)

    @property
    def name(self) -> str:
        """The path as people read it."""
        return " / ".join(self.path)

    def room(self, epochs: Fraction | float) -> int:
        """The most rows that can be given, in these shares, with nothing inside written more than `epochs` times."""
        if not self.parts:
            return floor(self.available * Fraction(epochs))
        return min(floor(part.room(epochs) / part.share) for part in self.parts if part.share)

    def fill(self, rows: int) -> None:
        """Give this many rows, and each part its share of them."""
        self.taken = rows
        for part, number in zip(self.parts, allot(rows, [part.share for part in self.parts]), strict=True):
            part.fill(number)

    def walk(self) -> Iterator[Source]:
        """Every source inside, each before its parts."""
        for part in self.parts:
            yield part
            yield from part.walk()

    def leaves(self) -> Iterator[Source]:
        """The sources that are not divided; this one, if it is not."""
        yield from (source for source in (self, *self.walk()) if not source.parts)

    def facts(self) -> dict[str, Any]:
        """What a report says of it: `share` is of the whole mixture, `copies` the most that a row is written."""
        leaves = list(self.leaves())
        return {
            "path": list(self.path),
            "available": self.available,
            "share": float(self._whole),
            "taken": self.taken,
            "distinct": sum(min(leaf.taken, leaf.available) for leaf in leaves),
            "copies": max(ceil(Fraction(leaf.taken, leaf.available)) if leaf.available else 0 for leaf in leaves),
            "epochs": self.taken / self.available if self.available else 0.0,
        }


def allot(rows: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers in these proportions that add up to `rows` (largest remainders; of equal ones, the first).

    >>> allot(10, [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)])
    [5, 3, 2]
    """
    whole = sum(shares)
    if not whole:
        return [0] * len(shares)
    quotas = [rows * share / whole for share in shares]
    counts = [floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda place: (counts[place] - quotas[place], place))
    for place in by_remainder[: rows - sum(counts)]:
        counts[place] += 1
    return counts


def divide(rule: Mix, available: Mapping[Names, int]) -> Source:
    """The whole mixture as a tree, filled with as many rows as the rule says.

    Args:
        rule: what the recipe says.
        available: rows of each source that is not divided further, by path.

    Raises DataError for a source with a weight and no rows, for parts that have no weight between them, and for a
    total that needs more epochs than allowed.
    """
    tree = Source((), sum(available.values()))
    tree.parts = _parts(rule, rule.levels, tree, available)
    if rule.epochs is not None:
        passes = [_epochs(rule, part) * part.available for part in tree.parts]
        tree.fill(max(1, round(sum(passes))))
    else:
        tree.fill(_total(rule, tree))
    return tree


def _parts(rule: Mix, levels: Sequence[Division], around: Source, available: Mapping[Names, int]) -> list[Source]:
    if not levels:
        return []
    depth = len(around.path)
    groups: dict[str, dict[Names, int]] = {}
    for path, number in available.items():
        groups.setdefault(path[depth], {})[path] = number
    parts = [Source((*around.path, name), sum(groups[name].values())) for name in sorted(groups)]
    weights = [_weight(rule, levels[0], part) for part in parts]
    whole = sum(weights)
    if not whole and around._whole:
        what = f"the parts of {around.name or 'the mixture'} have no weight between them"
        raise DataError(what, where="mix", fix=f"give one of {', '.join(sorted(groups))} a weight above 0")
    for part, weight in zip(parts, weights, strict=True):
        part.share = weight / whole if whole else Fraction(0)
        part._whole = around._whole * part.share
        if part._whole and not part.available:
            fix = "give it the weight 0, raise its cap, or add data"
            raise DataError(f"no row of {part.name} may be taken, and it has a weight", where="mix", fix=fix)
        part.parts = _parts(rule, levels[1:], part, groups[part.path[-1]])
    return parts


def _weight(rule: Mix, level: Division, part: Source) -> Fraction:
    if len(part.path) == 1 and rule.epochs is not None:
        return _epochs(rule, part) * part.available
    if level.weights == "equal":
        return Fraction(1)
    if level.weights == "rows":
        rates = level.max_rate
        if isinstance(rates, dict):
            rates = next((rates[name] for name in part.path[:-1] if name in rates), None)
        weight = Fraction(part.available if rates is None else min(part.available, rates))
    else:
        weight = _exact(level.weights[part.path[-1]])
    if level.temperature != 1 and weight:
        return Fraction(f"{float(weight) ** (1 / level.temperature):.{_DIGITS}g}")
    return weight


def _epochs(rule: Mix, part: Source) -> Fraction:
    return _exact((rule.epochs[part.path[0]] if isinstance(rule.epochs, dict) else rule.epochs) or 0)


def _exact(number: float) -> Fraction:
    """The decimal number that was typed, which a float only comes near to."""
    return Fraction(repr(number))


def _total(rule: Mix, tree: Source) -> int:
    if rule.total is not None and rule.max_epochs is None:
        return rule.total
    most = Fraction(1) if rule.max_epochs is None else _exact(rule.max_epochs)
    room = tree.room(most if rule.total is not None else min(most, Fraction(1)))
    total = rule.total or room
    if 0 < total <= room:
        return total
    scarce = min((leaf for leaf in tree.leaves() if leaf._whole), key=lambda leaf: leaf.available / leaf._whole)
    needed = float(max(total, 1) * scarce._whole / scarce.available)
    lower = f"lower it to {room:,}, " if room else ""
    raise DataError(
        f"a total of {max(total, 1):,} needs {needed:.3g} epochs of {scarce.name} ({scarce.available:,} rows), and "
        f"max_epochs allows {rule.max_epochs:g}",
        where="mix.total",
        fix=f"{lower}raise mix.max_epochs, or give {scarce.name} less weight",
    )
