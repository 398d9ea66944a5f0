"""Near-duplicates: the same verdicts as comparing every two rows by their sets of n-grams."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.core.text import normalise, words
from shinan.scorers import nearness
from shinan.scorers.nearness import Near, near_duplicates
from shinan.scorers.shingles import Integers

Row = Mapping[str, str]


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)} or {(normalise(text), "", "", "", "")}


def jaccard(row: Row, other: Row, n: int) -> float:
    """By definition, of the least similar texts."""
    if [*row] != [*other]:
        return 0.0
    pairs = [(grams(row[name], n), grams(other[name], n)) for name in row]
    return min(len(one & two) / len(one | two) for one, two in pairs)


def by_definition(rows: Sequence[Row], threshold: float, n: int) -> list[Near | None]:
    """Every row against every kept row before it."""
    found: list[Near | None] = []
    for row in rows:
        kept = [place for place, near in enumerate(found) if near is None]
        near = [Near(place, jaccard(row, rows[place], n)) for place in kept]
        best = max(near, key=lambda each: each.similarity, default=None)  # the first of the greatest
        found.append(best if best and best.similarity >= threshold else None)
    return found


def varied(draw: random.Random, vocabulary: int, length: int, names: Sequence[str], count: int) -> list[Row]:
    """Rows of a few texts, each with up to three words drawn anew: many pairs lie near any threshold."""
    known = [[str(draw.randrange(vocabulary)) for _ in range(draw.randrange(length))] for _ in range(3)]
    rows: list[Row] = []
    for _ in range(count):
        row = {}
        for name in draw.sample(names, draw.randint(1, len(names))):
            text = list(draw.choice(known))
            for _ in range(draw.randrange(4) if text else 0):
                text[draw.randrange(len(text))] = str(draw.randrange(vocabulary))
            row[name] = " ".join(text) + draw.choice(["", "!"])
        rows.append(dict(sorted(row.items())))
    return rows


@settings(max_examples=300)
@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 4, 30]),
    st.sampled_from([3, 10, 40]),
    st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]),
    st.integers(0, 40),
    st.sampled_from([1e-9, 0.01, 0.3, 0.5, 0.6, 0.75, 0.8, 0.9, 1.0]),
    st.integers(1, 3),
)
def test_verdicts_are_those_of_comparing_every_two_rows(
    seed: int, vocabulary: int, length: int, names: list[str], count: int, threshold: float, n: int
) -> None:
    rows = varied(random.Random(seed), vocabulary, length, names, count)
    assert near_duplicates(rows, threshold=threshold, n=n) == by_definition(rows, threshold, n)


@given(st.lists(st.text(st.sampled_from("ab猫だ ’é"), max_size=9), max_size=12), st.integers(1, 3))
def test_the_same_in_other_scripts(texts: list[str], n: int) -> None:
    rows = [{"": text} for text in texts]
    assert near_duplicates(rows, threshold=0.6, n=n) == by_definition(rows, 0.6, n)


def test_many_rows_in_several_blocks() -> None:
    draw = random.Random(3)
    rows = [row for _ in range(40) for row in varied(draw, 1000, 40, ["a", "b"], 8)]
    spread = [*rows[:160], *({"a": f"filler {i} of its own"} for i in range(5_000)), *rows[160:]]
    found = near_duplicates(spread)
    moved = [place if place < 160 else place + 5_000 for place in range(320)]
    want = by_definition(rows, 0.8, 3)
    assert any(want)
    assert [found[place] for place in moved] == [
        near and Near(moved[near.place], near.similarity) for near in want
    ]  # fmt: skip
    assert not any(found[160:5_160])


def test_golden_similarities() -> None:
    """By hand: one word in the middle of 29 changed leaves 24 of 30 runs of three; of 28 it leaves 23 of 29."""
    long = [f"w{i}" for i in range(29)]
    rows = [{"": " ".join(long)}, {"": " ".join([*long[:14], "x", *long[15:]])}]
    short = [{"": " ".join(long[:28])}, {"": " ".join([*long[:14], "x", *long[15:28]])}]
    assert near_duplicates(rows) == [None, Near(0, 24 / 30)]
    assert near_duplicates(short) == [None, None]
    assert near_duplicates(short, threshold=23 / 29) == [None, Near(0, 23 / 29)]


def test_a_chain_of_small_steps_drops_only_what_is_near_a_kept_row() -> None:
    """Each row has ten words more than the one before: near it, but not near the one before that."""
    rows = [{"": " ".join(map(str, range(72 + 10 * i)))} for i in range(4)]
    assert near_duplicates(rows) == [None, Near(0, 70 / 80), None, Near(2, 90 / 100)]


def test_the_most_similar_kept_row_is_named_the_first_among_equals() -> None:
    text = [f"w{i}" for i in range(60)]
    ends = [" ".join([*text, "a", "b"]), " ".join(["x", "y", *text]), " ".join(["u", *text])]
    rows = [{"": each} for each in [*ends[:2], " ".join(text)]]
    assert near_duplicates(rows, threshold=0.96)[2] == Near(0, 58 / 60)
    assert near_duplicates([{"": ends[0]}, {"": ends[2]}, rows[2]], threshold=0.96)[2] == Near(1, 58 / 59)


def test_an_order_of_rows_that_share_nothing_changes_no_verdict() -> None:
    rows = varied(random.Random(5), 30, 40, ["a"], 60)
    alone = [{"b": f"only here {i}"} for i in range(60)]
    mixed = [row for pair in zip(alone, rows, strict=True) for row in pair]
    want = near_duplicates(rows, threshold=0.6)
    assert any(want)
    assert near_duplicates(mixed, threshold=0.6)[1::2] == [
        near and Near(2 * near.place + 1, near.similarity) for near in want
    ]
    assert near_duplicates([row for row, near in zip(rows, want, strict=True) if not near], threshold=0.6) == [
        None
    ] * want.count(None)


def test_short_texts_are_near_only_to_equal_ones() -> None:
    texts = ["yes", "Yes", "yes.", "-", "+", "", "", "a b", "b a"]
    found = near_duplicates([{"": text} for text in texts])
    assert [near and near.place for near in found] == [None, 0, None, None, None, None, 5, None, None]


def test_nothing() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates([{}, {"": "a"}, {}, {"": "a"}]) == [None, None, None, Near(1, 1.0)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"": f"one shared run {i} {i * i} {i**3}"} for i in range(20_000)],
        [{"": f"one shared run {i}"} for i in range(20_000)],
        [{"": " ".join(map(str, range(100))) + f" {i} end"} for i in range(20_000)],
        [{"told": " ".join(map(str, range(100))), "asked": f"{i} and {i + 1}"} for i in range(20_000)],
        [{"": " ".join(map(str, range(100))) + "".join(f" {i}x{k}" for k in range(18))} for i in range(20_000)],
    ],
    ids=["one common shingle", "short, one common shingle", "one cluster", "one instruction", "plain template"],
)
def test_what_all_rows_share_makes_no_comparisons(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred million would be made if every two rows that share a shingle were compared."""
    compared = 0
    nearest = nearness._Sets.nearest

    def counted(sets: nearness._Sets, place: int, others: Integers, threshold: float) -> Near | None:
        nonlocal compared
        compared += len(others)
        return nearest(sets, place, others, threshold)

    monkeypatch.setattr(nearness._Sets, "nearest", counted)
    near_duplicates(rows)
    assert compared <= len(rows)
