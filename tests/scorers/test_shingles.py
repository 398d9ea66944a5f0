"""Shingles of many texts at once: equal exactly where runs of words are equal."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.text import normalise, words
from shinan.scorers.shingles import shingles

TEXTS = st.lists(st.text(st.sampled_from("abAB é猫だไ\u0301\u200d’_-\n\t\ud800"), max_size=12), max_size=8)
LETTERS = st.lists(st.text(st.sampled_from("ab"), max_size=140), max_size=4)


def expected(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    if len(found) < n:
        return [("", normalise(text))]  # no word is empty
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


@given(TEXTS | LETTERS, st.integers(1, 4))
def test_equal_hashes_are_equal_runs_of_words_in_their_order(texts: list[str], n: int) -> None:
    hashes, counts = shingles(texts, n)
    runs = [expected(text, n) for text in texts]
    assert counts.tolist() == [len(each) for each in runs]
    flat = [run for each in runs for run in each]
    assert len(dict(zip(flat, hashes.tolist(), strict=True))) == len({*hashes.tolist()}) == len({*flat})
    assert all(dict(zip(flat, hashes, strict=True))[run] == hash_ for run, hash_ in zip(flat, hashes, strict=True))


def test_words_are_told_apart_at_every_length_and_place_of_a_letter() -> None:
    many = ["a" * size for size in range(1, 150)] + ["a" * i + "b" + "a" * (149 - i) for i in range(150)]
    assert len(np.unique(shingles(many, 1).hashes)) == len(many)


def test_hashes_do_not_depend_on_the_texts_around() -> None:
    texts = ["one two three four", "", "five", "one two three four six"]
    together = shingles(texts, 3)
    alone = [shingles([text], 3).hashes for text in texts]
    assert np.concatenate(alone).tolist() == together.hashes.tolist()


def test_no_text_at_all() -> None:
    assert [column.size for column in shingles([], 3)] == [0, 0]
