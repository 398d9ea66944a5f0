"""Exact duplicates: the first is kept and named."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shinan.core.example import Example, Message, Part, Provenance, assistant, user
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.duplicates import exact_duplicates


def row(position: int, prompt: str, reply: str = "yes") -> Example:
    return Example((user(prompt), assistant(reply)), provenance=Provenance("a.jsonl", position))


def test_the_same_content_is_dropped_and_the_kept_row_named() -> None:
    rows = [row(0, "One?"), row(1, "Two?"), row(2, "One?"), row(3, "One?")]
    again = Verdict.drop("duplicate", "same as a.jsonl#0")
    assert exact_duplicates()(rows) == [KEEP, KEEP, again, again]


def test_texts_that_differ_only_in_form_are_dropped_unless_switched_off() -> None:
    rows = [row(0, "Say  HELLO"), row(1, "say hello\n"), row(2, "ｓａｙ hello"), row(3, "say hello!")]
    found = exact_duplicates()(rows)
    assert found[1:] == [Verdict.drop("duplicate_text", "same as a.jsonl#0 but for form")] * 2 + [KEEP]
    assert exact_duplicates(normalise=False)(rows) == [KEEP] * 4


def test_how_a_message_is_cut_into_parts_does_not_matter() -> None:
    typed = Example((Message("user", (Part("Reverse.", "instruction"), Part("abc", "input"))), assistant("cba")))
    plain = Example((user("Reverse.\n\nabc"), assistant("cba")))
    assert typed.id != plain.id
    assert [found.reason for found in exact_duplicates()([typed, plain])] == ["", "duplicate_text"]


def test_a_difference_in_any_content_keeps_a_row() -> None:
    first = row(0, "One?")
    others = [
        row(1, "One?", "no"),
        replace(first, rejected=(assistant("no"),)),
        replace(first, targets=("yes",)),
        replace(first, choices=("yes", "no")),
        replace(first, ranked=("yes", "no")),
        replace(first, thumb=True),
    ]
    assert exact_duplicates()([first, *others]) == [KEEP] * 7


def test_tags_scores_and_weight_are_not_content() -> None:
    first = row(0, "One?")
    assert not exact_duplicates()([first, replace(first, tags={"x": "y"}, weight=2.0)])[1].keep


@given(st.lists(st.sampled_from(["a", "A", "b", " b", "c"])), st.booleans())
def test_what_is_kept_is_every_text_once_and_a_second_pass_drops_nothing(texts: list[str], normalise: bool) -> None:
    rows = [row(position, text) for position, text in enumerate(texts)]
    check = exact_duplicates(normalise=normalise)
    kept = [example for example, found in zip(rows, check(rows), strict=True) if found.keep]
    seen = [example.messages[0].text.strip().lower() if normalise else example.messages[0].text for example in kept]
    assert len(seen) == len(set(seen)) == len({text.strip().lower() if normalise else text for text in texts})
    assert check(kept) == [KEEP] * len(kept)
