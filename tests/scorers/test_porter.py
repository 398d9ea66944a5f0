"""The stemmer against the one that rouge_score uses (NLTK's)."""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from shinan.scorers.porter import stem

REFERENCE = DefaultTokenizer(use_stemmer=True)._stemmer

SUFFIXES = """
    y s es ed ied ies eed ing sses ion sion tion logi logy ll e le ly alli ally fulli fully ational tional enci anci
    izer bli entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti icate ative alize iciti
    ical ful ness al ance ence er ic able ible ant ement ment ent ou ism ate iti ous ive ize eded nging
"""
IRREGULAR = """
    sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed
"""


def differing(words: set[str]) -> dict[str, tuple[str, str]]:
    pairs = {word: (stem(word), REFERENCE.stem(word)) for word in words}
    return {word: pair for word, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize(
    ("word", "expected"),
    [  # Porter 1980, one or two a step
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("hopping", "hop"),
        ("filing", "file"),
        ("happy", "happi"),
        ("relational", "relat"),
        ("triplicate", "triplic"),
        ("adjustment", "adjust"),
        ("controll", "control"),
        ("as", "as"),
    ],
)
def test_examples_of_the_paper(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_every_suffix_after_every_short_stem_of_a_small_alphabet() -> None:
    stems = ("".join(letters) for size in range(4) for letters in itertools.product("aetyls", repeat=size))
    words = {base + suffix for base in stems for suffix in ("", *SUFFIXES.split())}
    assert len(words) > 15_000
    assert differing(words | set(IRREGULAR.split())) == {}


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", max_size=10), st.sampled_from(SUFFIXES.split()))
def test_any_word(base: str, suffix: str) -> None:
    assert differing({base, base + suffix}) == {}


def test_every_word_of_real_text(data: Path) -> None:
    packed = sorted((data / "self_instruct" / "human_eval" / "predictions").glob("*.gz"))
    words = {
        word for path in packed for word in re.findall("[a-z0-9]+", gzip.decompress(path.read_bytes()).decode().lower())
    }
    assert len(words) > 5_000
    assert differing(words) == {}
