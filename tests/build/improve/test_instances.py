"""Instances out of replies: golden cases by hand, after reading the reference's prepare_for_finetuning.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.build.improve.instances import Instance, input_first, judge, output_first
from shinan.core.verdict import KEEP


def reasons(found: list[Instance], *, cut: bool = False, most: int = 5) -> list[str]:
    return [verdict.reason for verdict in judge(found, cut=cut, most=most, seed=0)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "Example 1\nList: 2, 1\nOutput: 1, 2\n\nExample 2\nb a\nOutput: a b",
            [("List: 2, 1", "1, 2"), ("b a", "a b")],
        ),
        ("Output: It rains.", [("", "It rains.")]),
        ("It rains.", []),
        ("Input: 3\nOutput: 9\nInput: 4\nOutput: 16", [("3", "9")]),  # one pair where none is numbered
        ("Example 1\nInput: 3\nOutput: 9\nInput: 4", [("3", "9")]),
        ("Example 1\nInput 1: 3\nOutput 1: 9", [("3", "9")]),
        ("Example 1\nIt rains.", [("", "It rains.")]),
        ("Example 1: It\nOutput: rains\nExample: x\nOutput: y", [("It", "rains"), ("x", "y")]),
        ("Here you are.\nExample1. x\nOutput: y", [("", "Here you are."), ("x", "y")]),
        ("An Example of rain: Output: wet", [("", "An"), ("of rain:", "wet")]),  # the word alone cuts too
        ("Example 1\nOutput:", [("", "")]),
        ("", []),
    ],
)
def test_input_first(text: str, found: list[tuple[str, str]]) -> None:
    assert input_first(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Class label: good\nText: Yes.\nClass label: bad\nText: No.", [("Text: Yes.", "good"), ("Text: No.", "bad")]),
        ("Class label: Mercury", [("", "Mercury")]),
        ("The label is good.", []),
        ("Text: I like it.\nClass label: good\n\n\nText: Yes.\nMore.", [("Text: Yes.\nMore.", "good")]),
        ("Class label:", [("", "")]),
    ],
)
def test_output_first(text: str, found: list[tuple[str, str]]) -> None:
    assert output_first(text) == found


def test_what_is_no_instance() -> None:
    found = [Instance("a", "a"), Instance("a", ""), Instance("", ""), Instance("a:", "b"), Instance("a", "b:")]
    assert reasons(found) == ["input_is_output", "no_output", "input_is_output", "ends_with_colon", "ends_with_colon"]


def test_the_last_instance_of_a_reply_that_was_cut_goes() -> None:
    assert reasons([Instance("a", "b"), Instance("c", "d")], cut=True) == ["", "cut_off"]
    assert reasons([], cut=True) == []


def test_two_outputs_to_one_input_drop_all_that_is_left_of_the_task() -> None:
    found = [Instance("a", "b"), Instance("c", "d"), Instance("e", "e"), Instance("a", "x")]
    assert reasons(found) == ["conflicting", "conflicting", "input_is_output", "conflicting"]
    assert reasons(found, cut=True) == ["", "", "input_is_output", "cut_off"]  # what was cut off is not asked
    assert reasons([Instance("", "b"), Instance("", "x")]) == ["", ""]  # without input there may be many


def test_repeats_go_and_the_first_stays() -> None:
    assert reasons([Instance("a", "b"), Instance("c", "d"), Instance("a", "b")]) == ["", "", "repeated"]


def test_at_most_five_are_kept_drawn_by_seed() -> None:
    found = [Instance(str(n), "x") for n in range(9)]
    kept = [[v.keep for v in judge(found, cut=False, most=5, seed=seed)] for seed in range(20)]
    assert all(sum(row) == 5 for row in kept)
    assert all(any(column) for column in zip(*kept, strict=True))  # every place has a chance
    assert kept[0] == [v.keep for v in judge(found, cut=False, most=5, seed=0)]


@pytest.mark.promise1
@given(st.lists(st.builds(Instance, st.sampled_from("ab:"), st.sampled_from("ab")), max_size=9), st.booleans())
def test_every_instance_gets_one_verdict(found: list[Instance], cut: bool) -> None:
    verdicts = judge(found, cut=cut, most=2, seed=1)
    assert len(verdicts) == len(found)
    assert sum(verdict.keep for verdict in verdicts) <= 2
    assert all(verdict is KEEP or verdict.reason for verdict in verdicts)
