"""Seeds out of rows of every kind, and the reference's filters on proposed instructions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.build.collection import collection
from shinan.build.instructions import UNFIT_ALPACA, Seed, as_messages, one_line, seeds_of, unmarked, unsuitable
from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, assistant, system, user
from shinan.core.verdict import Verdict


def test_a_row_with_typed_parts_is_cut_at_them_and_demonstrations_are_left_out() -> None:
    parts = (Part("Translate.", "instruction"), Part("Example: ...", "demonstration"), Part("neko", "input"))
    row = Example((system("Be brief."), Message("user", parts), assistant("cat")))
    assert seeds_of([row]) == [Seed(row.id, "Translate.", "neko", "cat", False, row.provenance.licence)]


def test_a_plain_row_is_an_instruction_without_input() -> None:
    row = Example((user("Name a bird. "), assistant("Owl")), tags={"classification": "yes"})
    assert seeds_of([row]) == [Seed(row.id, "Name a bird.", "", "Owl", True, row.provenance.licence)]


def test_the_first_row_of_an_instruction_is_its_seed() -> None:
    rows = collection(
        0, languages=["en"], tasks=["cafe_comment_card_mood"], split="all", avoid=False, instances_per_task=3
    )
    assert len(rows) == 3
    (seed,) = seeds_of(rows)
    assert seed.output == rows[0].reply


def test_only_classification_tasks_and_only_answered_ones() -> None:
    asked, chosen = (
        Example((user("Name a bird."),)),
        Example((user("Odd or even?"), assistant("odd")), choices=("odd",)),
    )
    talk = Example((user("Hi"), assistant("Hi"), user("Bye"), assistant("Bye")))
    rows = [asked, chosen, talk, Example(())]
    assert [seed.id for seed in seeds_of(rows)] == [asked.id, chosen.id]
    assert [seed.id for seed in seeds_of(rows, answered=True)] == [chosen.id]
    assert [seed.id for seed in seeds_of(rows, classification_only=True)] == [chosen.id]


@pytest.mark.promise10
def test_no_seed_left_is_told() -> None:
    told = "seeds: no seed is left: none of 1 rows is a classification task\n  do this: name other build stages"
    with pytest.raises(DataError, match=told):
        seeds_of([Example((user("Name a bird."),))], classification_only=True)
    with pytest.raises(DataError, match="none of 0 rows is a single instruction with a reply"):
        seeds_of([], answered=True)


def test_a_task_as_turns_gives_the_same_task_back() -> None:
    (back,) = seeds_of([Example(as_messages("Translate.", "neko", "cat"))])
    assert back[1:5] == ("Translate.", "neko", "cat", False)
    assert as_messages("Name a bird.") == (Message("user", (Part("Name a bird.", "instruction"),)),)


def test_prompts_list_an_instruction_on_one_line() -> None:
    assert one_line(" Sort \n these:words:: ") == "Sort these:words"


def test_marks_of_a_chat_model_are_taken_off() -> None:
    assert unmarked("## Tasks\n\n**Example 1**\n \nOutput: 2 * 3 # six\n") == "Tasks\nExample 1\nOutput: 2 * 3 # six"


@pytest.mark.parametrize(
    ("instruction", "verdict"),
    [
        ("Name three birds", Verdict.drop("too_short", "3 words")),
        ("Name four big birds", None),
        (" ".join(["go"] * 150), None),
        (" ".join(["go"] * 151), Verdict.drop("too_long", "151 words")),
        ("Describe the PICTURE in words", Verdict.drop("unfit_word", "picture")),
        ("Describe the picturesque old town", None),
        ("Tell me to go to bed", Verdict.drop("unfit_word", "go to")),
        ("Find good music for me", None),
        ("Write a program that sorts", Verdict.drop("write_a_program")),
        ("Please Write a program that sorts", None),
        ("- name the four seasons", Verdict.drop("starts_with_punctuation", "-")),
        ("École is a French word", Verdict.drop("starts_beyond_ascii", "É")),
        ("Draw - and - see - it", Verdict.drop("unfit_word", "draw")),
        ("", Verdict.drop("too_short", "0 words")),
    ],
)
def test_the_filters_of_the_reference(instruction: str, verdict: Verdict | None) -> None:
    assert unsuitable(instruction) == verdict


def test_alpaca_has_more_words_that_do_not_fit() -> None:
    assert unsuitable("Find good music for me", UNFIT_ALPACA) == Verdict.drop("unfit_word", "music")


def test_other_languages_are_counted_by_words_and_may_begin_beyond_ascii() -> None:
    assert unsuitable("次の文を英語に訳してください。", language="ja") is None
    assert unsuitable("次の文を英語に訳してください。") == Verdict.drop("too_short", "1 words")
    assert unsuitable("訳して", language="ja") == Verdict.drop("too_short", "3 words")
    assert unsuitable("、".join("あ" * 151), language="ja") == Verdict.drop("too_long", "151 words")
    assert unsuitable("École is a French word", language="fr") is None


@given(st.text(max_size=80), st.sampled_from(["en", "ja"]))
def test_any_text_gets_a_verdict(text: str, language: str) -> None:
    found = unsuitable(text, language="ja" if language == "ja" else "en")
    assert found is None or not found.keep
