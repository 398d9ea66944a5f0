"""The forest batch: token sequences that share prefixes, laid out so that each shared prefix is computed once.

Instruction data repeats itself: instances share a task's definition, chosen and rejected replies share a prompt,
options share a stem. Rows are merged into a trie of token segments and written depth first, so that a segment's
descendants follow it without a gap. Then one number a token says everything about attention: token k is an ancestor of
token q, or q itself, exactly when k <= q < end[k]. For a causal model this is exact: a token's hidden state depends on
its ancestors and its depth alone. Pure functions, no torch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bundle = tuple["TokenRow", ...]
"""Rows that are trained together: one for supervised tuning, a chosen and a rejected one for preferences."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised sequence.

    Attributes:
        ids: token ids, terminator included.
        mask: True where the token is trained (predicted from what stands before it). mask[0] is never True.
        weight: multiplies the loss of each trained token.
        row: the example's `row`, for verdicts and traces.
        task: the example's cluster: a sampler may draw rows of one task together.
        source: how many ids, from the first on, an encoder reads; 0 for a model without one.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    weight: float
    row: str
    task: str = ""
    source: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.mask) or any(self.mask[:1]):  # a label at 0 would be learnt from another row
            raise ValueError(f"{self.row}: {len(self.ids)} ids, {len(self.mask)} mask values, first {self.mask[:1]}")

    @property
    def labelled(self) -> int:
        """Number of trained tokens."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, stop) of the layout, without a branch between them.

    Attributes:
        start: first token.
        stop: one past the last token.
        end: one past the last token of its descendants.
        parent: index of the parent segment, -1 for a root.
    """

    start: int
    stop: int
    end: int
    parent: int


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows laid out depth first, and their supervision.

    Attributes:
        ids: [t] token ids, each shared prefix once.
        depths: [t] number of ancestors: the position id.
        ends: [t] one past the last token that descends from this one's segment.
        segments: in layout order, so that a parent precedes its children.
        positions: [n] layout index of each supervised position (the token *before* the label).
        targets: [n] the token to be predicted there. A shared position may occur with several targets.
        examples: [n] index of the row that asks for it.
        weights: [n] its weight.
    """

    ids: Ints
    depths: Ints
    ends: Ints
    segments: tuple[Segment, ...]
    positions: Ints
    targets: Ints
    examples: Ints
    weights: npt.NDArray[np.float32]


def grow(rows: Sequence[TokenRow]) -> Forest:
    """The forest of `rows`. Two rows share a token exactly when they agree on it and on all before it."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids)
    common = [0, *(_agree(rows[a].ids, rows[b].ids) for a, b in pairwise(order)), 0]
    ids: list[int] = []
    depths: list[int] = []
    open_: list[int] = []  # segments on the path to the newest token
    made: list[list[int]] = []  # start, stop, end, parent
    paths: list[tuple[int, ...]] = [()] * len(rows)
    for place, index in enumerate(order):
        row = rows[index].ids
        shared = common[place]
        while open_ and depths[made[open_[-1]][0]] >= shared:
            open_.pop()
        # Where later rows leave this one, its tail is cut, so that they find a segment to hang from.
        cuts = sorted({*_leaving(common, place + 1, shared), len(row)})
        depth = shared
        for cut in cuts:
            if cut > depth:
                made.append([len(ids), len(ids) + cut - depth, 0, open_[-1] if open_ else -1])
                open_.append(len(made) - 1)
                ids += row[depth:cut]
                depths += range(depth, cut)
                depth = cut
        for segment in open_:
            made[segment][2] = len(ids)
        paths[index] = tuple(open_)
    segments = tuple(Segment(*numbers) for numbers in made)
    ends = np.concatenate([np.full(s.stop - s.start, s.end) for s in segments]) if segments else np.empty(0)
    return Forest(
        np.array(ids, dtype=np.int64),
        np.array(depths, dtype=np.int64),
        ends.astype(np.int64),
        segments,
        *_supervision(rows, [[segments[i] for i in path] for path in paths]),
    )


def lengths(forest: Forest) -> Ints:
    """[t] tokens of the longest row that each token is part of."""
    longest = np.empty_like(forest.depths)
    for segment in forest.segments:
        longest[segment.start : segment.stop] = forest.depths[segment.start : segment.end].max() + 1
    return longest


def _leaving(common: Sequence[int], place: int, shared: int) -> Iterator[int]:
    """Depths beyond `shared` at which the following rows leave the row before `place`, deepest first."""
    depth = common[place]
    while depth > shared:
        yield depth
        place += 1
        depth = min(depth, common[place])


def _agree(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    return next(i for i in range(size) if a[i] != b[i])


def _supervision(
    rows: Sequence[TokenRow], paths: Sequence[Sequence[Segment]]
) -> tuple[Ints, Ints, Ints, npt.NDArray[np.float32]]:
    """A label at index i of a row is supervised at the row's token i - 1."""
    positions, targets, examples, weights = [], [], [], []
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)):
        labels = np.flatnonzero(row.mask)
        if len(labels):
            places = np.concatenate([np.arange(s.start, s.stop) for s in path])
            positions.append(places[labels - 1])
            targets.append(np.array(row.ids, dtype=np.int64)[labels])
            examples.append(np.full(len(labels), index))
            weights.append(np.full(len(labels), row.weight))
    if not positions:
        none = np.empty(0, dtype=np.int64)
        return none, none, none, none.astype(np.float32)
    return (
        np.concatenate(positions).astype(np.int64),
        np.concatenate(targets),
        np.concatenate(examples).astype(np.int64),
        np.concatenate(weights).astype(np.float32),
    )


def pack(bundles: Sequence[Bundle], capacity: int) -> list[tuple[int, ...]]:
    """Indices of bundles in bins of at most `capacity` tokens, each shared prefix counted once in its bin.

    A bundle is never split; one that is larger than the capacity has a bin of its own. Every bundle is in exactly one
    bin. Bundles are taken in the order of their tokens, so that those that share a prefix meet in a bin.
    """
    bins: list[tuple[int, ...]] = []
    inside: list[int] = []
    seen: list[tuple[int, ...]] = []
    used = 0
    for index in sorted(range(len(bundles)), key=lambda i: bundles[i][0].ids):
        extra = _insert(seen, bundles[index])
        if inside and used + extra > capacity:
            bins.append(tuple(inside))
            inside, seen, used = [], [], 0
            extra = _insert(seen, bundles[index])
        inside.append(index)
        used += extra
    return [*bins, tuple(inside)] if inside else bins


def computed(bundles: Sequence[Bundle]) -> int:
    """Tokens that a forest of these bundles computes."""
    seen: list[tuple[int, ...]] = []
    return sum(_insert(seen, bundle) for bundle in bundles)


def _insert(seen: list[tuple[int, ...]], bundle: Bundle) -> int:
    """Add the bundle's rows to the sorted list `seen`; returns how many tokens are new.

    Among sorted sequences, the longest common prefix is with a neighbour.
    """
    fresh = 0
    for row in bundle:
        place = bisect_left(seen, row.ids)
        near = seen[max(0, place - 1) : place + 1]
        fresh += len(row.ids) - max((_agree(row.ids, other) for other in near), default=0)
        insort(seen, row.ids)
    return fresh


@dataclass(frozen=True, slots=True)
class Tile:
    """Attention of queries [start, stop) to the tokens `keys`.

    Attributes:
        start: first query.
        stop: one past the last query.
        keys: [m] layout indices, ascending: every token that some query of the tile may see.
        mask: [stop - start, m] True where the query may see the key; None where it may see all.
    """

    start: int
    stop: int
    keys: Ints
    mask: npt.NDArray[np.bool_] | None


_ROWS = 256  # queries a tile: more would compute much of the upper half of a causal square for nothing
_CALL = 16_384  # query-key pairs that cost about as much as one more tile: its calls are not free


def tiles(forest: Forest, window: int | None = None) -> list[Tile]:
    """Dense pieces that cover attention: each token's ancestors and itself, at most `window` back (None: all).

    A subtree is one tile, or its parts are tiles of their own: whichever computes less.
    """
    found = []
    for start, stop in _spans(forest):
        for low in range(start, stop, _ROWS):
            queries = np.arange(low, min(stop, low + _ROWS))
            keys = np.flatnonzero(forest.ends[: queries[-1] + 1] > low)
            mask = (keys <= queries[:, None]) & (queries[:, None] < forest.ends[keys])
            if window is not None:
                mask &= forest.depths[queries][:, None] - forest.depths[keys] < window
                seen = mask.any(0)
                keys, mask = keys[seen], mask[:, seen]
            found.append(Tile(int(low), int(queries[-1]) + 1, keys, None if mask.all() else mask))
    return found


def _spans(forest: Forest) -> list[tuple[int, int]]:
    """Ranges of queries to be computed together: whole subtrees where that is cheaper than piece by piece."""
    segments = forest.segments
    children: list[list[int]] = [[] for _ in segments]
    for index, segment in enumerate(segments):
        if segment.parent >= 0:
            children[segment.parent].append(index)
    cost = [0] * len(segments)
    whole = [False] * len(segments)
    for index in reversed(range(len(segments))):  # children first
        s = segments[index]
        above = int(forest.depths[s.start])
        together = _cost(s.end - s.start, above)
        apart = _cost(s.stop - s.start, above) + sum(cost[child] for child in children[index])
        whole[index] = together <= apart
        cost[index] = min(together, apart)
    spans = []
    done = 0
    for segment, one in zip(segments, whole, strict=True):
        if segment.start >= done:
            done = segment.end if one else segment.stop
            spans.append((segment.start, done))
    return spans


def _cost(size: int, above: int) -> int:
    """Query-key pairs of a span of `size` tokens below `above` ancestors, cut into tiles."""
    full, rest = divmod(size, _ROWS)
    pairs = sum(_ROWS * (above + _ROWS * (i + 1)) for i in range(full)) + rest * (above + size) * (rest > 0)
    return pairs + _CALL * (full + (rest > 0))
