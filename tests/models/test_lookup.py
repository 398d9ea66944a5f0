"""Guesses from a text's own past."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shinan.models.lookup import Lookup

_TOKENS = st.lists(st.integers(0, 4), max_size=40)


def test_what_followed_last_time_follows_again() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.guess(8) == [4, 5]
    assert lookup.guess(1) == [4]
    assert lookup.guess(0) == []


def test_the_longer_match_counts_and_then_the_later_one() -> None:
    assert Lookup([1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3]).guess(1) == [4]
    assert Lookup([7, 2, 3, 4, 9, 2, 3, 5, 9, 2, 3]).guess(1) == [5]


def test_a_circle_goes_on() -> None:
    lookup = Lookup([1, 2, 3, 1, 2, 3])
    lookup.judge(2, 2)
    lookup.judge(4, 4)
    assert lookup.guess(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_nothing_is_guessed_without_a_hint() -> None:
    assert Lookup([]).guess(8) == []
    assert Lookup([1]).guess(8) == []
    assert Lookup([1, 2, 3, 4]).guess(8) == []


def test_guesses_grow_and_shrink_with_what_was_right() -> None:
    lookup = Lookup([1] * 30)
    sizes = []
    for guessed, right in ((2, 2), (4, 4), (8, 8), (8, 3), (3, 1)):
        assert len(lookup.guess(99)) == guessed
        lookup.judge(guessed, right)
        sizes.append(len(lookup.guess(99)))
    assert sizes == [4, 8, 8, 3, 1]


def test_after_wrong_guesses_it_rests_longer_each_time() -> None:
    lookup = Lookup([1] * 30)
    tried = []
    for _ in range(12):
        made = lookup.guess(9)
        tried.append(bool(made))
        lookup.judge(len(made), 0)
    assert tried == [True, False, True, False, False, True, False, False, False, True, False, False]


@given(prompt=_TOKENS, rest=_TOKENS)
def test_a_text_in_pieces_is_the_text(prompt: list[int], rest: list[int]) -> None:
    pieces, whole = Lookup(prompt), Lookup([*prompt, *rest])
    for token in rest:
        pieces.extend([token])
    assert pieces.guess(8) == whole.guess(8)


@given(text=_TOKENS, most=st.integers(0, 9))
def test_a_guess_is_how_the_text_went_on(text: list[int], most: int) -> None:
    made = Lookup(text).guess(most)
    assert len(made) <= most
    extended = [*text, *made]
    for place in range(len(text), len(extended)):  # each guessed token once followed the two before it
        gram = extended[place - 2 : place + 1]
        assert any(extended[i : i + 3] == gram for i in range(place - 2))
