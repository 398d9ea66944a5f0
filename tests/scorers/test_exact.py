"""Exact match and SQuAD F1: hand-made cases, and the published normalising written out."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.example import Example, user
from shinan.core.registry import bind
from shinan.scorers.exact import exact_match, plain, squad_f1, squad_plain

ASCII = st.text(st.characters(max_codepoint=127))


def item(*targets: str) -> Example:
    return Example((user("?"),), targets=targets)


@given(ASCII)
def test_plain_is_the_published_normalising_on_ascii(text: str) -> None:
    kept = [c for c in text.lower() if c not in string.punctuation]
    assert plain(text) == " ".join("".join(kept).split())


@pytest.mark.parametrize(
    ("reply", "target", "expected"),
    [
        ("B.", "b", 1),
        ("  Yes,\n it  is ", "yes it is", 1),
        ("the cat", "cat", 0),  # articles stay
        ("U.S.A", "usa", 1),
        ("3.5", "35", 1),  # as published: a point is punctuation
        ("", "yes", 0),
        ("「東京」。", "東京", 1),
        ("ＡＢＣ！", "abc", 1),
        ("don’t", "don't", 1),
        ("東京", "京都", 0),
        ("Straße", "strasse", 0),
    ],
)
def test_exact_match(reply: str, target: str, expected: float) -> None:
    score = exact_match()(item(target), reply)
    assert score.value == expected
    assert score.by == "exact_match"


def test_any_target_will_do_and_the_reading_is_told() -> None:
    score = exact_match()(item("no", "nope"), " Nope! ")
    assert (score.value, score.answer) == (1, "nope")


@given(st.text())
def test_a_text_matches_itself_and_its_own_reading(text: str) -> None:
    assert exact_match()(item(text), text).value == 1
    assert squad_f1()(item(text), text).value == 1


@pytest.mark.promise6
@pytest.mark.parametrize(
    ("reply", "target", "f1", "exact"),
    [
        ("The Eiffel Tower", "eiffel tower.", 1, 1),  # articles and punctuation go
        ("in Paris, France", "Paris", 0.5, 0),  # 1 of 3 and 1 of 1
        ("a b b c", "b b b d", 4 / 7, 0),  # bags: b b shared, 2 of 3 (a is an article) and 2 of 4
        ("London", "Paris", 0, 0),
        ("", "", 1, 1),  # a question without an answer
        ("the", "", 1, 1),
        ("Paris", "", 0, 0),
        ("", "Paris", 0, 0),
        ("theatre an", "theatre", 1, 1),
        ("1995年", "「１９９５年」", 1, 1),
        ("東京都", "東京", 0.8, 0),  # 2 of 3 and 2 of 2 characters
        ("it is 東京", "東京", 4 / 8, 0),  # characters i t i s 東 京: 2 of 6 and 2 of 2
    ],
)
def test_squad_f1(reply: str, target: str, f1: float, exact: float) -> None:
    score = squad_f1()(item(target), reply)
    assert score.value == pytest.approx(f1)
    assert score.parts == {"exact": exact}


def test_squad_takes_the_best_gold() -> None:
    score = squad_f1()(item("Denver Broncos", "The Broncos"), "Broncos")
    assert (score.value, score.parts["exact"], score.answer) == (1, 1, "broncos")


def test_tokens_can_be_forced() -> None:
    assert squad_f1(tokens="words")(item("東京"), "東京都").value == 0
    assert squad_f1(tokens="characters")(item("abd"), "abc").value == pytest.approx(2 / 3)
    assert squad_f1(tokens="characters")(item("a b d"), "").value == 0


def test_articles_are_whole_words() -> None:
    assert squad_plain("A banana, an apple; the theme") == "banana apple theme"


def test_no_target_is_none() -> None:
    for scorer in (exact_match(), squad_f1()):
        score = scorer(item(), "x")
        assert score.value is None
        assert score.explanation == "the example has no target to compare with"


def test_registered() -> None:
    assert bind("scorer", "exact_match", {})()(item("a"), "A").value == 1
    assert bind("scorer", "squad_f1", {"tokens": "words"}).identity()["with"] == {"tokens": "words"}
