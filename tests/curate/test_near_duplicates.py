"""Near-duplicates of rows: what is compared with what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shinan.core.errors import ConfigError
from shinan.core.example import Example, Message, Part, Provenance, assistant, system, user
from shinan.core.registry import bind
from shinan.core.verdict import KEEP, Verdict
from shinan.curate import curate
from shinan.curate.near_duplicates import near_duplicates

LONG = " ".join(f"word{i}" for i in range(60))
NEARLY = LONG.replace("word30", "other")
DEFINITION = "In this task you are given a sentence and are to say whether it is true. " * 5


def row(position: int, prompt: str, reply: str = "Yes.") -> Example:
    return Example((user(prompt), assistant(reply)), provenance=Provenance("a.jsonl", position))


def typed(position: int, instruction: str, given: str, reply: str = "Yes.", *more: Part) -> Example:
    parts = (Part(instruction, "instruction"), *more, Part(given, "input"))
    return Example((Message("user", parts), assistant(reply)), provenance=Provenance("t", position))


def reasons(*rows: Example) -> list[str]:
    return [found.reason for found in near_duplicates()(rows)]


def test_a_nearly_equal_row_is_dropped_and_the_kept_row_named() -> None:
    rows = [row(0, LONG), row(1, "Something else."), row(2, NEARLY), row(3, LONG)]
    near = Verdict.drop("near_duplicate", "0.90 of the words' 3-grams shared with a.jsonl#0")
    same = Verdict.drop("near_duplicate", "1.00 of the words' 3-grams shared with a.jsonl#0")
    assert near_duplicates()(rows) == [KEEP, KEEP, near, same]
    assert [found.row for found, _ in curate(rows, [("near", near_duplicates())]).dropped] == ["a.jsonl#2", "a.jsonl#3"]


def test_the_same_prompt_with_another_reply_stays() -> None:
    assert reasons(row(0, LONG, "Yes."), row(1, LONG, "No."), row(2, NEARLY, "yes")) == ["", "", ""]
    assert reasons(row(0, LONG, LONG), row(1, LONG, LONG[::-1]), row(2, LONG, NEARLY)) == ["", "", "near_duplicate"]


def test_rows_of_one_template_are_compared_by_what_fills_it() -> None:
    rows = [typed(i, DEFINITION, f"The number {i} is even.", "True" if i % 2 == 0 else "False") for i in range(50)]
    assert near_duplicates()(rows) == [KEEP] * 50
    shown = Part(DEFINITION * 3, "demonstration")
    assert reasons(*(typed(i, DEFINITION, f"Is {i} even?", "True", shown) for i in range(50))) == [""] * 50
    assert reasons(typed(0, DEFINITION, LONG), typed(1, DEFINITION, NEARLY)) == ["", "near_duplicate"]


def test_the_same_input_under_another_template_stays() -> None:
    assert reasons(typed(0, DEFINITION, LONG), typed(1, "Is this sentence true or not?", LONG)) == ["", ""]


def test_gaps_between_parts_are_no_content() -> None:
    gap = typed(1, DEFINITION, LONG, "Yes.", Part("\n"))
    assert reasons(typed(0, DEFINITION, LONG), gap) == ["", "near_duplicate"]
    assert reasons(typed(0, DEFINITION, LONG), typed(1, DEFINITION, LONG, "Yes.", Part("\nText: "))) == ["", ""]


def test_every_content_counts() -> None:
    first = row(0, LONG, LONG)
    others = [
        replace(first, rejected=(assistant("no"),)),
        replace(first, targets=("yes",)),
        replace(first, choices=("yes", "no")),
        replace(first, choices=("no", "yes")),
        replace(first, ranked=("yes", "no")),
        replace(first, thumb=True),
        replace(first, thumb=False),
        Example((system(LONG), *first.messages)),
        Example((*first.messages, user("And?"), assistant("So."))),
        Example((first.messages[1], first.messages[0])),
    ]
    assert near_duplicates()([first, *others]) == [KEEP] * 11
    assert not any(found.keep for found in near_duplicates()([first, *others, first, *others])[11:])


def test_japanese_is_compared_by_characters() -> None:
    text = "むかしむかしあるところにおじいさんとおばあさんがすんでいましたおじいさんはやまへしばかりに"
    assert reasons(row(0, text), row(1, text.replace("やま", "うみ")), row(2, "猫はどこですか")) == [
        "",
        "near_duplicate",
        "",
    ]


def test_rows_without_messages_or_words_are_judged_too() -> None:
    assert reasons(Example(()), row(1, "", ""), row(2, "?", "!"), row(3, "", "")) == ["", "", "", "near_duplicate"]
    assert near_duplicates()([]) == []


@pytest.mark.parametrize(("key", "value"), [("threshold", 0.0), ("threshold", 1.5), ("n", 0), ("nn", 3)])
def test_options_are_checked(key: str, value: float) -> None:
    assert bind("check", "near_duplicates", {}).params == {"threshold": 0.8, "n": 3}
    with pytest.raises(ConfigError, match=key):
        bind("check", "near_duplicates", {key: value})
