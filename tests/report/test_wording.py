"""Wording: what is printed can deceive neither page nor terminal; numbers are rounded and signed as in print."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.report.wording import change, count, excerpt, interval, metric_name, p_value, points, printable, share

_ANY = st.text(st.characters(exclude_categories=()))  # every code point, lone surrogates too


@given(_ANY)
def test_printable_text_is_valid_and_holds_no_control_or_override(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert printable(shown) == shown
    for letter in shown:
        assert letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs")
        assert unicodedata.bidirectional(letter) not in ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("abc\u202etxt.exe", "abc⟨U+202E⟩txt.exe"),
        ("\ud83d", "\ufffd"),
        ("one\r\ntwo\tthree", "one\ntwo\tthree"),
        ("progress\rdone", "progress␍done"),
        ("می\u200cخواهم 👩\u200d🔧", "می\u200cخواهم 👩\u200d🔧"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("value", "as_points", "as_change"),
    [(0.3125, "31.2", "+31.2"), (-0.098, "−9.8", "−9.8"), (-0.0001, "0.0", "0.0"), (1.0, "100.0", "+100.0")],
)
def test_scores_are_shown_times_100(value: float, as_points: str, as_change: str) -> None:
    assert (points(value), change(value)) == (as_points, as_change)


def test_what_is_not_there_is_a_dash() -> None:
    assert [points(None), change(None), interval(None), p_value(None), share(0, 0)] == ["–"] * 5


def test_interval() -> None:
    assert interval((-0.0102, 0.2561)) == "−1.0 to +25.6"


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.0123, "0.012"), (0.0994, "0.099"), (0.513, "0.51")]
)
def test_p_value(p: float, shown: str) -> None:
    assert p_value(p) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"), [(0, 9, "0 %"), (1, 3, "33 %"), (1, 999, "< 1 %"), (999, 1000, "99 %"), (5, 5, "100 %")]
)
def test_share_never_hides_a_row(part: int, whole: int, shown: str) -> None:
    assert share(part, whole) == shown


def test_excerpt_says_how_much_is_left_out() -> None:
    assert excerpt("あいう", 3) == "あいう"
    assert excerpt("word " * 1000, 7) == "word wo … [4,993 more characters]"


def test_names_and_counts() -> None:
    assert (metric_name("rouge_l"), metric_name("exact_match"), count(1234567)) == (
        "ROUGE-L",
        "exact match",
        "1,234,567",
    )
