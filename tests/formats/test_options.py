"""Lists of options: every dress holds every option, and the answer names the right one."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.formats.options import Look, draw_look

WORDS = ["Yes", "Maybe", "No"]


def look(marker: str, *, head: str = "", end: str = "", between: str = "\n") -> Look:
    return Look(head, marker, "- ", end, between)


@pytest.mark.parametrize(
    ("shown", "block", "answer"),
    [
        (look("- ", head="OPTIONS:"), "OPTIONS:\n- Yes\n- Maybe\n- No", "Maybe"),
        (look("(A) ", head="Pick one:", end=";"), "Pick one:\n(A) Yes;\n(B) Maybe;\n(C) No;", "(B)"),
        (look("a. ", end="."), "a. Yes.\nb. Maybe.\nc. No.", "b"),
        (look("1) ", between=" "), "1) Yes 2) Maybe 3) No", "2"),
        (look("[i] ", head="Options:", between=" "), "Options:\n[i] Yes [ii] Maybe [iii] No", "[ii]"),
        (look("I. "), "I. Yes\nII. Maybe\nIII. No", "II"),
        (look("（ア）", between="　"), "（ア）Yes　（イ）Maybe　（ウ）No", "（イ）"),
        (look("ア．", head="選択肢：", end="。"), "選択肢：\nア．Yes。\nイ．Maybe。\nウ．No。", "イ"),
        (look("① "), "① Yes\n② Maybe\n③ No", "②"),
    ],
)
def test_a_list_is_written_as_its_look_says(shown: Look, block: str, answer: str) -> None:
    assert shown.block(WORDS) == block
    assert shown.answer(WORDS, 1) == answer


def test_an_option_that_ends_a_sentence_gets_no_second_stop() -> None:
    assert look("- ", end=".").block(["It is so.", "It is not so"]) == "- It is so.\n- It is not so."
    assert look("・", end="。").block(["はい。", "いいえ"]) == "・はい。\n・いいえ。"


def test_more_options_than_letters_are_bulleted_and_answered_in_words() -> None:
    words = [f"w{n}" for n in range(27)]
    assert look("(A) ").block(words[:26]).endswith("(Z) w25")
    assert look("(A) ").block(words).startswith("- w0\n- w1\n")
    assert look("(A) ").answer(words, 26) == "w26"
    assert look("(A) ").answer(words[:26], 25) == "(Z)"


@settings(deadline=None)
@given(
    st.integers(0, 2**62),
    st.integers(0, 10**6),
    st.sampled_from(["en", "ja", "es"]),
    st.lists(st.sampled_from(["red", "green", "blue", "black", "white", "pink"]), min_size=2, max_size=6, unique=True),
)
def test_a_drawn_list_holds_every_option_once_in_order_and_its_answer(
    seed: int, row: int, language: str, words: list[str]
) -> None:
    drawn = draw_look(seed, row, language)
    assert drawn == draw_look(seed, row, language)
    block = drawn.block(words)
    assert re.findall("red|green|blue|black|white|pink", block) == words
    answers = [drawn.answer(words, right) for right in range(len(words))]
    assert len(set(answers)) == len(words)
    for word, answer in zip(words, answers, strict=True):
        assert answer == word or re.search(rf"{re.escape(answer)}[).:．：\]】 ]*{word}", block)


def test_the_dresses_are_many() -> None:
    for language, least in (("en", 1000), ("ja", 300)):
        drawn = Counter(draw_look(0, row, language) for row in range(3000))
        assert len(drawn) > least
        assert {look.head for look in drawn} >= {"", "OPTIONS:" if language == "en" else "選択肢："}
        assert {look.end for look in drawn} == ({"", ";", "."} if language == "en" else {"", "。"})
        assert len({look.marker for look in drawn}) == (22 if language == "en" else 15)


def test_bullets_stand_on_lines_of_their_own() -> None:
    for row in range(2000):
        drawn = draw_look(1, row, "en")
        if drawn.marker in ("- ", "* ", "+ ", "-- ", "[ ] "):
            assert drawn.between == "\n"
