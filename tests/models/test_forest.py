"""The forest as pure data: layout, supervision, bins and tiles against references that look at one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.models import forest as forest_module
from shinan.models.forest import Bundle, Forest, TokenRow, computed, grow, pack, tiles

Prefix = tuple[int, ...]


def row(ids: Sequence[int], mask: Sequence[bool] = (), weight: float = 1.0, name: str = "a#0") -> TokenRow:
    """A row; by default nothing of it is trained."""
    return TokenRow(tuple(ids), tuple(mask) or (False,) * len(ids), weight, name)


@st.composite
def token_rows(draw: st.DrawFn) -> list[TokenRow]:
    """Few different tokens, so that rows agree, branch everywhere, repeat, and begin one another."""
    ids = st.lists(st.integers(0, draw(st.integers(0, 2))), max_size=12)
    made: list[TokenRow] = []
    for _ in range(draw(st.integers(0, 8))):
        before = draw(st.sampled_from(made)).ids if made else ()
        full = (*before[: draw(st.integers(0, 12))], *draw(ids))
        mask = [False, *draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))][: len(full)]
        made.append(TokenRow(full, tuple(mask), draw(st.sampled_from([0.0, 0.5, 1.0])), f"a#{len(made)}"))
    return made


@st.composite
def bundles(draw: st.DrawFn) -> list[Bundle]:
    """Rows alone and in pairs."""
    rows = draw(token_rows())
    cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1)))) if len(rows) > 1 else []
    parts = [tuple(rows[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return [part for part in parts if part]


def naive_prefixes(rows: Sequence[TokenRow]) -> set[Prefix]:
    """What a forest holds a token for: every different beginning of a row."""
    return {row.ids[:size] for row in rows for size in range(1, len(row.ids) + 1)}


def prefixes(forest: Forest) -> list[Prefix]:
    """Of each token of the layout, the ids from its root to itself, by the segments' parents."""
    found: list[Prefix] = []
    for segment in forest.segments:
        path = found[forest.segments[segment.parent].stop - 1] if segment.parent >= 0 else ()
        for token in forest.ids[segment.start : segment.stop].tolist():
            path = (*path, token)
            found.append(path)
    return found


def attention(forest: Forest, window: int | None = None) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """[t, t] who attends to whom: a token's prefix begins with that of another, which is at most a window shorter."""
    paths = prefixes(forest)
    seen = np.zeros((len(paths), len(paths)), bool)
    for q, mine in enumerate(paths):
        for k, other in enumerate(paths):
            near = window is None or len(mine) - len(other) < window
            seen[q, k] = near and mine[: len(other)] == other
    return seen


@pytest.mark.promise9
@given(token_rows())
@settings(deadline=None)
def test_a_prefix_is_shared_exactly_where_rows_agree(rows: list[TokenRow]) -> None:
    found = prefixes(grow(rows))
    assert len(found) == len(set(found))
    assert set(found) == naive_prefixes(rows)


@given(token_rows())
@settings(deadline=None)
def test_segments_cover_the_layout_and_parents_come_first(rows: list[TokenRow]) -> None:
    forest = grow(rows)
    stops = [segment.stop for segment in forest.segments]
    assert [segment.start for segment in forest.segments] == [0, *stops[:-1]][: len(stops)]
    assert (stops[-1] if stops else 0) == len(forest.ids) == len(forest.depths) == len(forest.ends)
    for index, segment in enumerate(forest.segments):
        assert segment.start < segment.stop
        assert segment.parent < index
        below = {index}
        for other, later in enumerate(forest.segments):
            if later.parent in below:
                below.add(other)
        assert segment.end == max(stops[other] for other in below)
        assert set(forest.ends[segment.start : segment.stop].tolist()) == {segment.end}


@pytest.mark.promise9
@given(token_rows())
@settings(deadline=None)
def test_one_number_a_token_says_who_its_ancestors_are(rows: list[TokenRow]) -> None:
    forest = grow(rows)
    paths, place = prefixes(forest), np.arange(len(forest.ids))
    assert forest.depths.tolist() == [len(path) - 1 for path in paths]
    seen = (place <= place[:, None]) & (place[:, None] < forest.ends)
    assert np.array_equal(seen, attention(forest))
    assert seen.sum(1).tolist() == [depth + 1 for depth in forest.depths.tolist()]


@pytest.mark.promise9
@given(token_rows())
@settings(deadline=None)
def test_every_label_is_supervised_once_at_the_token_before_it(rows: list[TokenRow]) -> None:
    forest = grow(rows)
    paths = prefixes(forest)
    listed = zip(forest.positions, forest.targets, forest.examples, forest.weights, strict=True)
    found = sorted((paths[p], int(t), int(e), float(w)) for p, t, e, w in listed)
    naive = [
        (one.ids[:i], one.ids[i], e, one.weight)
        for e, one in enumerate(rows)
        for i in range(len(one.ids))
        if one.mask[i]
    ]
    assert found == sorted(naive)
    assert len(naive) == sum(one.labelled for one in rows)
    assert forest.weights.dtype == np.float32


def test_three_rows_by_hand() -> None:
    rows = [
        row((5, 6, 8), (False, False, True), 0.5, "a#0"),
        row((5, 6, 7, 9), (False, True, True, True), 1.0, "a#1"),
        row((5, 6), (False, True), 2.0, "a#2"),
    ]
    forest = grow(rows)
    assert forest.ids.tolist() == [5, 6, 7, 9, 8]
    assert forest.depths.tolist() == [0, 1, 2, 3, 2]
    assert forest.ends.tolist() == [5, 5, 4, 4, 5]
    assert [(s.start, s.stop, s.end, s.parent) for s in forest.segments] == [(0, 2, 5, -1), (2, 4, 4, 0), (4, 5, 5, 0)]
    assert forest.positions.tolist() == [1, 0, 1, 2, 0]
    assert forest.targets.tolist() == [8, 6, 7, 9, 6]
    assert forest.examples.tolist() == [0, 1, 1, 1, 2]
    assert forest.weights.tolist() == [0.5, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("rows", "segments", "tokens"),
    [
        ([], 0, 0),
        ([row(())], 0, 0),
        ([row((3,))], 1, 1),
        ([row((3,)), row((3,)), row((4,)), row(())], 2, 2),
        ([row(range(9))] * 2000, 1, 9),
        ([row(range(size)) for size in range(300)], 299, 299),
        ([row(range(size)) for size in reversed(range(300))], 299, 299),
        ([row([0] * size + [1]) for size in range(200)], 398, 399),
    ],
    ids=["nothing", "empty", "one-token", "one-token-rows", "identical", "chain", "chain-backwards", "comb"],
)
def test_extreme_shapes(rows: list[TokenRow], segments: int, tokens: int) -> None:
    forest = grow(rows)
    assert (len(forest.segments), len(forest.ids)) == (segments, tokens)
    assert computed([(one,) for one in rows]) == tokens
    assert sum(tile.stop - tile.start for tile in tiles(forest)) == tokens
    kept = pack([(one,) for one in rows], 7)
    assert sorted(index for inside in kept for index in inside) == list(range(len(rows)))


@given(bundles(), st.integers(1, 40))
@settings(deadline=None)
def test_bins_hold_every_bundle_once_and_keep_the_capacity(parts: list[Bundle], capacity: int) -> None:
    bins = pack(parts, capacity)
    assert sorted(index for inside in bins for index in inside) == list(range(len(parts)))
    sizes = [len(naive_prefixes([one for index in inside for one in parts[index]])) for inside in bins]
    assert all(size <= capacity or len(inside) == 1 for size, inside in zip(sizes, bins, strict=True))
    # and no bin was closed early: the first bundle of the next one would not have fitted
    for inside, after in pairwise(bins):
        assert len(naive_prefixes([one for index in (*inside, after[0]) for one in parts[index]])) > capacity


@given(bundles())
@settings(deadline=None)
def test_computed_tokens_are_those_of_the_forest(parts: list[Bundle]) -> None:
    rows = [one for part in parts for one in part]
    assert computed(parts) == len(naive_prefixes(rows)) == len(grow(rows).ids)


def test_rows_with_a_common_beginning_meet_in_a_bin() -> None:
    parts = [(row((task, *range(10, 18), number)),) for number in range(4) for task in (1, 2)]
    assert [sorted(inside) for inside in pack(parts, 13)] == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.promise9
@pytest.mark.parametrize("window", [None, 1, 2, 3, 7])
@given(rows=token_rows(), queries=st.integers(1, 6), call=st.sampled_from([0, 4, 16_384]))
@settings(deadline=None, max_examples=50)
def test_tiles_are_the_mask(rows: list[TokenRow], queries: int, call: int, window: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest_module, "_ROWS", queries)
        patch.setattr(forest_module, "_CALL", call)
        _compare_tiles(grow(rows), window)


@pytest.mark.parametrize("window", [None, 1, 40])
def test_tiles_of_rows_longer_than_a_tile(window: int | None) -> None:
    trunk = list(range(300))
    _compare_tiles(grow([row([*trunk, *[900 + branch] * 70]) for branch in range(3)]), window)


def _compare_tiles(forest: Forest, window: int | None) -> None:
    expected = attention(forest, window)
    found, covered = np.zeros_like(expected), np.zeros(len(forest.ids), int)
    for tile in tiles(forest, window):
        assert (np.diff(tile.keys) > 0).all()
        mask = np.ones((tile.stop - tile.start, len(tile.keys)), bool) if tile.mask is None else tile.mask
        assert mask.any(0).all(), "a key that no query of the tile sees"
        covered[tile.start : tile.stop] += 1
        found[tile.start : tile.stop, tile.keys] = mask
    assert (covered == 1).all()
    assert np.array_equal(found, expected)


def test_shared_prefixes_make_tiles_cheaper_than_the_whole_mask() -> None:
    apart = grow([row([branch] * 200) for branch in range(8)])
    pairs = sum((tile.stop - tile.start) * len(tile.keys) for tile in tiles(apart))
    assert pairs == 8 * 200 * 200  # and not (8 * 200) ** 2


@pytest.mark.parametrize("mask", [(True, True), (False,), (False, True, True)])
def test_a_mask_that_cannot_be_is_our_bug(mask: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match=r"a#0: 2 ids, . mask values"):
        row((1, 2), mask)
