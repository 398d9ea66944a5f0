"""The n-gram index against sets of tuples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.text import words
from shinan.scorers.ngrams import NO_MATCH, Match, Overlap

TEXT = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def slow_share(reference: str, text: str, n: int) -> float:
    tokens = words(reference)
    length = min(n, len(tokens))
    if not length:
        return 0.0
    found = grams(text, length)
    starts = [i for i in range(len(tokens) - length + 1) if tuple(tokens[i : i + length]) in found]
    return len({i + step for i in starts for step in range(length)}) / len(tokens)


@pytest.mark.promise8
@given(st.lists(TEXT, max_size=5), TEXT, st.integers(1, 4))
def test_equals_counting_tuples(references: list[str], text: str, n: int) -> None:
    named = [(str(i), reference) for i, reference in enumerate(references)]
    match = Overlap(named, n).coverage(text)
    shares = [slow_share(reference, text, n) for reference in references]
    best = max(shares, default=0.0)
    assert match.share == pytest.approx(best)
    assert match.reference_id == (str(shares.index(best)) if best else "")
    assert bool(match.span_text) == bool(best)
    assert f" {match.span_text} " in f" {text} " or not best


@pytest.mark.promise8
@given(
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(words),
    st.lists(st.from_regex(r"zq[a-z]{4}", fullmatch=True), max_size=30),
    st.lists(st.from_regex(r"zq[a-z]{4}", fullmatch=True), max_size=30),
)
def test_a_planted_reference_is_always_found(reference: str, before: list[str], after: list[str]) -> None:
    text = " ".join([*before, reference, *after])
    match = Overlap([("other", "nothing of this kind"), ("planted", reference)]).coverage(text)
    assert (match.share, match.reference_id) == (1.0, "planted")


@given(st.lists(st.text("abcdef", min_size=1, max_size=4)), st.lists(st.text("uvwxyz", min_size=1, max_size=4)))
def test_an_unrelated_text_never_matches(reference: list[str], text: list[str]) -> None:
    index = Overlap([("r", " ".join(reference)), ("short", "abc"), ("empty", "?!")], n=2)
    assert index.coverage(" ".join(text)) == NO_MATCH


@pytest.mark.promise8
def test_share_is_of_the_reference_however_long_the_row() -> None:
    index = Overlap([("quiz#3", "one two three four five six seven eight")], n=3)
    row = "padding " * 50 + "Two, three: FOUR five! " + "padding " * 50
    assert index.coverage(row) == Match(0.5, "quiz#3", "two three four five")


@pytest.mark.promise8
def test_a_changed_word_hides_itself_alone() -> None:
    tokens = [f"w{i}" for i in range(20)]
    index = Overlap([("quiz#4", " ".join(tokens))])
    tokens[9] = "changed"  # five of the thirteen 8-grams are left, and nineteen of the twenty words
    assert index.coverage(" ".join(tokens)) == Match(19 / 20, "quiz#4", " ".join(tokens[10:]))


def test_the_span_is_the_longest_run_of_the_best_reference() -> None:
    index = Overlap([("a", "p q r s t u v"), ("b", "k l m")], n=2)
    match = index.coverage("k l x p q y r s t u y u v")
    assert match == Match(1.0, "a", "r s t u")


def test_the_span_leaves_out_what_belongs_to_another_reference() -> None:
    index = Overlap([("best", "p q r s"), ("other", "k l m n o one two three four five six")], n=2)
    assert index.coverage("k l m n o, then p q r s") == Match(1.0, "best", "p q r s")


def test_the_span_of_a_short_reference_ends_with_it() -> None:
    index = Overlap([("short", "p q"), ("long", "k l m n o")], n=4)
    assert index.coverage("p q unknown words follow").span_text == "p q"


def test_a_short_reference_is_found_whole_or_not_at_all() -> None:
    index = Overlap([("short", "Capital of France?")], n=8)
    assert index.coverage("Tell me: the capital of France, please") == Match(1.0, "short", "capital of france")
    assert index.coverage("the capital of Spain, not of France") == NO_MATCH
    assert index.coverage("capital of") == NO_MATCH


def test_a_repeated_gram_counts_wherever_the_reference_has_it() -> None:
    assert Overlap([("r", "a b c a b d")], n=2).coverage("a b").share == pytest.approx(4 / 6)


@pytest.mark.promise8
def test_form_does_not_hide_a_copy() -> None:
    index = Overlap(
        [("jp", "日本で一番高い山は何ですか。"), ("en", "Ｗｈａｔ is the highest mountain in all of Japan?")]
    )
    assert index.coverage("質問：日本で一番高い山は何ですか？").share == 1
    assert index.coverage("WHAT is\nthe highest - mountain, in all of japan").reference_id == "en"


def test_no_reference_and_empty_texts() -> None:
    assert Overlap([]).coverage("anything at all") == NO_MATCH
    assert Overlap([("e", "")]).coverage("") == NO_MATCH
    assert Overlap([("r", "some words")]).coverage("") == NO_MATCH


def test_word_order_matters() -> None:
    assert Overlap([("r", "a b c d")], n=4).coverage("d c b a") == NO_MATCH
    assert Overlap([("r", "a b")], n=2).coverage("b a") == NO_MATCH
