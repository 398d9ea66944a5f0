"""Normalising and words in many scripts."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shinan.core.text import _WORD, normalise, spelt, unspaced, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Two\t words\n", "two words"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("STRASSE straße", "strasse strasse"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("cafe\u0301", "caf\u00e9"),
        ("ﬁve", "five"),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text() | st.text("αΑιΐᾳᾴİßK\u0301\u0345\u0359\u030a"))
@example("\u0130\u030a\u0359")
@example("\u1fb4\u0340")
def test_normalise_is_blind_to_form(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(unicodedata.normalize("NFD", text)) == once
    assert normalise(f" {text}\n") == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's 3 hats, 猫だ。", ["the", "cat", "s", "3", "hats", "猫", "だ"]),
        ("snake_case x=1.5", ["snake", "case", "x", "1", "5"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン"]),
        ("GPTは賢い", ["gpt", "は", "賢", "い"]),
        ("你好，world", ["你", "好", "world"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("ລາວ", ["ລ", "າ", "ວ"]),
        ("ខ្មែរ។", ["ខ", "្", "ម", "ែ", "រ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी में लिखो।", ["हिन्दी", "में", "लिखो"]),
        ("مُحَمَّد، سلام", ["مُحَمَّد", "سلام"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("நன்றி", ["நன்றி"]),
        ("Việt Nam", ["việt", "nam"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("… — !?", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_runs_of_letters_and_digits(text: str) -> None:
    assert words(text) == re.findall("[a-z0-9]+", text.lower())


@given(st.text(), st.text())
def test_words_never_reach_over_a_blank(left: str, right: str) -> None:
    assert words(f"{left} {right}") == words(left) + words(right)


@given(st.text())
def test_words_lose_no_letter_and_keep_no_punctuation(text: str) -> None:
    joined = "".join(words(text))
    letters = [c for c in normalise(text) if c.isalnum()]
    assert [c for c in joined if c.isalnum()] == letters
    assert not any(unicodedata.category(c)[0] in "PSZ" for c in joined)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tokyo 東京", True),
        ("かな", True),
        ("ไทย", True),
        ("한국어", False),
        ("हिन्दी", False),
        ("plain", False),
        ("", False),
    ],
)
def test_unspaced(text: str, *, expected: bool) -> None:
    assert unspaced(text) is expected


@given(st.text() | st.text(st.sampled_from("aZ9_ é\u0301\u0345©¨´¸’…\u200d\u200b\u2011⁄½ª猫ｶﾞไहि्\ud800\x85\n")))
def test_words_are_what_the_pattern_finds_by_any_way(text: str) -> None:
    """ASCII text and text with typographic signs take shorter ways."""
    assert words(text) == _WORD.findall(normalise(text)) == spelt(text).decode().split()


def test_no_character_takes_a_wrong_way() -> None:
    for character in map(chr, range(0x2100)):  # past the signs that are taken out before the pattern
        text = f"a{character}\u0301b"
        assert words(text) == _WORD.findall(normalise(text))
