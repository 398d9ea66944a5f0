"""Near-duplicates: rows whose texts share nearly all their runs of n words with an earlier row that is kept.

Resemblance is that of Broder 1997 ("On the resemblance and containment of documents", section 2): the Jaccard
similarity of two sets of shingles. Nothing is estimated, so no pair is missed and none made up, as MinHash would:
candidates share a shingle among the rarest of both (Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity
search"), within the bounds on sizes and places of PPJoin (Xiao, Wang, Lin, Yu 2008), and are then compared whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shinan.core.hashing import hash64
from shinan.scorers.shingles import Hashes, Integers, shingles

Ranks = npt.NDArray[np.uint32]

BLOCK = 1_024  # rows that are cut into words at a time: more would be no faster, and take more memory
_ROUNDS = 3  # of striking out rows that share nothing with any other; more find few
_SLACK = 1e-6  # of bounds in floating point: a pair on the limit must become a candidate


class Near(NamedTuple):
    """An earlier row that was kept, as its place in the list, and the similarity to it (0 to 1)."""

    place: int
    similarity: float


def near_duplicates(rows: Sequence[Mapping[str, str]], *, threshold: float = 0.8, n: int = 3) -> list[Near | None]:
    """For each row the kept row that it nearly repeats, or None: the row is then kept itself.

    A row is some named texts. Two rows are as similar as the least similar two of their texts of the same name;
    rows with different names or none are not similar. Each row is held against the earlier rows that were kept and no
    others, so that nothing goes for being near something that is near something else. The most similar is named, the
    first among equals. What is similar is at least `threshold` (above 0, at most 1).

    Words are `core.text.words`. A text of fewer than n words is similar to equal texts only (see `shingles`). Memory
    while it runs: about 60 bytes a word.

    >>> near_duplicates([{"": "One two three four."}, {"": "One, two, three, four!"}, {"": "one two three five"}])
    [None, Near(place=0, similarity=1.0), None]
    """
    sets = _sets(rows, n)
    found: list[Near | None] = [None] * len(rows)
    having: dict[int, dict[int, list[int]]] = {}  # shingle -> size of the largest set it leads to -> kept rows
    for place, keys in _keys(sets, threshold):
        others = _candidates(having, keys)
        best = sets.nearest(place, others, threshold) if len(others) else None
        found[place] = best
        if best is None:
            for key in keys:
                for shingle, reach in key.shingles:
                    having.setdefault(shingle, {}).setdefault(reach, []).append(place)
    return found


class _Key(NamedTuple):
    """What one text can be found by: a few of its shingles, each with the size of the largest set it leads to."""

    size: int
    shingles: list[tuple[int, int]]


def _candidates(having: Mapping[int, Mapping[int, list[int]]], keys: Sequence[_Key]) -> Integers:
    """The kept rows that share a shingle of the text that fewest share one of, rising."""
    shared = [
        [
            places
            for shingle, _ in key.shingles
            for reach, places in having.get(shingle, {}).items()
            if reach >= key.size
        ]
        for key in keys
    ]
    fewest = min(shared, key=lambda lists: sum(map(len, lists)))
    return np.array(sorted(set().union(*fewest)), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Sets:
    """The set of shingles of every text of every row.

    Attributes:
        first: (rows + 1); row i's texts are the sets first[i] to first[i + 1].
        bounds: (sets + 1); set s is ranks[bounds[s] : bounds[s + 1]], rising.
        ranks: one number for each shingle, the rarest in all sets from 0 on.
        alone: ranks below it stand in one set only.
        mark: one flag for each rank, all down between calls.
    """

    first: Integers
    bounds: Integers
    ranks: Ranks
    alone: int
    mark: npt.NDArray[np.bool_]

    def nearest(self, place: int, others: Integers, threshold: float) -> Near | None:
        """The first of the rows that is most similar to the one at `place`, if it is similar enough."""
        similarity = np.ones(len(others))
        for number, text in enumerate(range(self.first[place], self.first[place + 1])):
            similarity = np.minimum(similarity, self._jaccard(text, self.first[others] + number))
            others, similarity = others[similarity >= threshold], similarity[similarity >= threshold]
            if not len(others):
                return None
        best = int(np.argmax(similarity))
        return Near(int(others[best]), float(similarity[best]))

    def _jaccard(self, text: int, others: Integers) -> npt.NDArray[np.float64]:
        """The similarity of one set with each of the others."""
        mine = self.ranks[self.bounds[text] : self.bounds[text + 1]]
        begin, sizes = self.bounds[others], self.bounds[others + 1] - self.bounds[others]
        ends = np.cumsum(sizes)
        self.mark[mine] = True
        hits = self.mark[self.ranks[np.arange(ends[-1]) + np.repeat(begin - (ends - sizes), sizes)]]
        self.mark[mine] = False
        shared: Integers = np.add.reduceat(hits, ends - sizes, dtype=np.int64)
        union: Integers = len(mine) + sizes - shared
        return shared / union


def _sets(rows: Sequence[Mapping[str, str]], n: int) -> _Sets:
    hashes, counts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    tags: dict[tuple[str, ...], Hashes] = {}
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        found = shingles([text for row in block for text in row.values()], n)
        names = [tuple(row) for row in block]
        tags |= {each: _tags(each) for each in {*names} - {*tags}}
        # The same shingle of a text of another name, or of a row with other names, is another one.
        hashes.append(found.hashes ^ np.repeat(np.concatenate([tags[each] for each in names]), found.counts))
        counts.append(found.counts)
    first = np.cumsum([0, *map(len, rows)])
    return _ranked(first, np.concatenate(hashes), np.concatenate(counts))


def _tags(names: Sequence[str]) -> Hashes:
    """A random number for each of a row's texts, so that fewer rows share anything."""
    seen = "\0".join(names)
    return np.array([hash64(f"{place}\0{seen}".encode()) for place in range(len(names))], dtype=np.uint64)


def _ranked(first: Integers, hashes: Hashes, counts: Integers) -> _Sets:
    """The sets; counts[s] of the hashes are those of set s."""
    order = np.argsort(hashes)
    hashes = hashes[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = hashes[1:] != hashes[:-1]
    del hashes
    frequency = np.diff(np.append(np.flatnonzero(new), len(new)))
    rank = np.empty(len(frequency), dtype=np.uint64)
    capped = np.minimum(frequency, 65_535).astype(np.uint16)  # sorted fastest, and tells what is rare
    rank[np.argsort(capped, kind="stable")] = np.arange(len(frequency))
    members = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)[order].astype(np.uint64)
    del order
    members <<= np.uint64(32)
    members |= rank[np.cumsum(new) - 1]
    members.sort()
    keep = np.ones(len(members), dtype=bool)
    keep[1:] = members[1:] != members[:-1]
    members = members[keep]
    bounds = np.searchsorted(members, np.arange(len(counts) + 1, dtype=np.uint64) << np.uint64(32))
    mark = np.zeros(len(frequency), dtype=bool)
    return _Sets(first, bounds, members.astype(np.uint32), int(np.count_nonzero(frequency == 1)), mark)


def _keys(sets: _Sets, threshold: float) -> Iterator[tuple[int, list[_Key]]]:
    """Every row that may be near another one, in order, with what each of its texts can be found by."""
    sizes = np.diff(sets.bounds)
    row = np.repeat(np.arange(len(sets.first) - 1), np.diff(sets.first))  # of each text
    leads = _leads(sets, threshold)
    for _ in range(_ROUNDS):
        leads = leads.only(_followed(leads, sizes, threshold))
        lost = np.diff(sets.first) == 0
        lost[row[np.bincount(leads.text, minlength=len(row)) == 0]] = True  # each of a row's texts must lead to another
        leads = leads.only(~lost[row[leads.text]])
    starts = np.searchsorted(leads.text, np.arange(len(row) + 1)).tolist()
    pairs = list(zip(leads.shingle.tolist(), leads.reach.tolist(), strict=True))
    for place in np.flatnonzero(~lost).tolist():
        texts = range(sets.first[place], sets.first[place + 1])
        yield place, [_Key(int(sizes[text]), pairs[starts[text] : starts[text + 1]]) for text in texts]


class _Leads(NamedTuple):
    """Shingles by which sets can be found, in the order of the sets: the set, the shingle, and the size of the largest
    set that it leads to."""

    text: Integers
    shingle: Integers
    reach: Integers

    def only(self, chosen: npt.NDArray[np.bool_]) -> _Leads:
        """Those of them."""
        return _Leads(*(column[chosen] for column in self))


def _followed(leads: _Leads, sizes: Integers, threshold: float) -> npt.NDArray[np.bool_]:
    """Which of them may lead to another set: one of the next size, up or down, that has the shingle too."""
    size = sizes[leads.text]
    order = np.argsort((leads.shingle << 32) | size)
    shingle, size, reach = leads.shingle[order], size[order], leads.reach[order]
    same = shingle[1:] == shingle[:-1]
    found = np.zeros(len(order), dtype=bool)
    found[order[:-1]] = same & (size[1:] <= reach[:-1])
    found[order[1:]] |= same & (size[:-1] >= threshold * size[1:] - _SLACK)
    return found


def _leads(sets: _Sets, threshold: float) -> _Leads:
    """The shingles by which sets can be found.

    Sets of a and b shingles that are similar share at least t / (1 + t) * (a + b), and these begin at some place p of
    the second, so that a <= (b - p) * (1 + t) / t - b; and a >= t * b. A place where no such a is left leads nowhere,
    and neither does a shingle that no other set has.
    """
    sizes = np.diff(sets.bounds)
    ratio = threshold / (1 + threshold)
    smallest = np.ceil(threshold * sizes - _SLACK)
    least = np.maximum(np.ceil(ratio * (sizes + smallest) - _SLACK), 1)  # shared with the smallest
    places = (sizes - least + 1).astype(np.int64)  # that lead anywhere
    text = np.repeat(np.arange(len(sizes)), places)
    place = np.arange(len(text)) - np.repeat(np.cumsum(places) - places, places)
    shingle = sets.ranks[sets.bounds[text] + place].astype(np.int64)
    shared = shingle >= sets.alone
    text, place, shingle = text[shared], place[shared], shingle[shared]
    largest = np.floor((sizes[text] - place) / ratio - sizes[text] + _SLACK)
    return _Leads(text, shingle, np.minimum(largest, len(sets.ranks)).astype(np.int64))
