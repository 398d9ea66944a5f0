"""Decontamination: what is too close to an evaluation item to be trained on, and what is not."""

from __future__ import annotations

import pytest

from shinan.build.collection import collection
from shinan.core.example import Example, Message, Part, Provenance, assistant, system, user
from shinan.core.verdict import Verdict
from shinan.curate import curate
from shinan.curate.overlap import overlap

pytestmark = pytest.mark.promise8

DEFINITION = (
    "You are given two short reports of the same football match. Decide whether they agree on the result, "
    "and answer with one word, agree or differ."
)
INPUT = "The harbour team won three goals to one after a slow first half in heavy rain on Saturday."
DEMONSTRATION = (
    "Input: The northern side lost by two points in front of an empty stand last Friday evening.\nOutput: differ"
)


def item(position: int = 0, definition: str = DEFINITION, text: str = INPUT) -> Example:
    parts = (Part(definition, "instruction"), Part(DEMONSTRATION, "demonstration"), Part(text, "input"))
    return Example(
        (system("Answer the question of the user as well and as briefly as you can."), Message("user", parts)),
        provenance=Provenance("eval/match", position),
    )


def trained(prompt: str, reply: str = "fine") -> Example:
    return Example((user(prompt), assistant(reply)), provenance=Provenance("train.jsonl"))


def judged(row: Example, *references: Example) -> Verdict:
    (only,) = overlap(references or (item(),))([row])
    return only


def test_the_item_itself_is_dropped_with_the_item_share_and_span_named() -> None:
    found = judged(trained(f"{DEFINITION}\n\n{INPUT}"))
    assert found.reason == "overlap"
    assert found.detail.startswith('100% of the prompt of eval/match#0, in 8-grams: "you are given two short reports')


def test_its_input_under_another_instruction_is_dropped() -> None:
    found = judged(trained(f"Translate into French: {INPUT}"))
    assert found.detail == f'100% of the input of eval/match#0, in 8-grams: "{INPUT[:-1].lower()}"'


def test_its_input_in_a_reply_or_a_rejected_reply_is_dropped() -> None:
    assert not judged(trained("Write a match report.", INPUT)).keep
    row = Example((user("Write a match report."), assistant("No.")), rejected=(assistant(INPUT),))
    assert not judged(row).keep


def test_another_instance_of_the_same_task_is_dropped() -> None:
    long = " ".join(f"word{n}" for n in range(200))  # the definition is a small part of this row and of the item
    found = judged(trained(f"{DEFINITION}\n\n{long}"), item(text=" ".join(f"other{n}" for n in range(200))))
    assert "of the instruction of eval/match#0" in found.detail


def test_stock_phrases_demonstrations_and_system_turns_are_not_evidence() -> None:
    assert judged(
        trained("You are given two short poems. Decide whether they rhyme, and answer with one word, yes or no.")
    ).keep
    assert judged(trained(DEMONSTRATION)).keep
    assert judged(Example((item().messages[0], user("Which is the longest river?"), assistant("The Nile.")))).keep


def test_exactly_half_is_kept_and_one_word_more_is_not() -> None:
    words = [f"w{n}" for n in range(20)]
    reference = Example((user(" ".join(words)),), provenance=Provenance("eval", 4))
    assert judged(trained(" ".join(words[:10])), reference).keep
    found = judged(trained(" ".join(words[:11])), reference)
    assert found.detail == f'55% of the prompt of eval#4, in 8-grams: "{" ".join(words[:11])}"'


def test_an_item_with_a_changed_word_is_still_known() -> None:
    words = [f"w{n}" for n in range(20)]
    reference = Example((user(" ".join(words)),), provenance=Provenance("eval", 4))
    assert not judged(trained(" ".join([*words[:9], "another", *words[10:]])), reference).keep


def test_a_prompt_shorter_than_one_gram_is_matched_whole() -> None:
    reference = Example((user("What is two plus two?"),), provenance=Provenance("eval", 9))
    assert judged(trained("what is two plus TWO"), reference) == Verdict.drop("overlap", "the same prompt as eval#9")
    assert judged(trained("He asked: what is two plus two? Nobody knew."), reference).keep
    assert judged(trained("What is two plus three?"), reference).keep


def test_a_prompt_without_words_matches_nothing() -> None:
    assert judged(trained("→ ?"), Example((user("!!!"),))).keep


def test_a_short_japanese_greeting_is_stock_but_a_sentence_is_not() -> None:
    greeting = Message(
        "user",
        (
            Part("次の文の場面を答えてください。選択肢は家と職場です。", "instruction"),
            Part("お世話になっております。", "input"),
        ),
    )
    assert judged(trained("返信を書く。\nお世話になっております。田中です。"), Example((greeting,))).keep
    sentence = Example((user("裏の畑でとれた大根を母が三本も持たせてくれた。"),))
    assert not judged(trained("英語にしてください。裏の畑でとれた大根を母が三本も持たせてくれた。"), sentence).keep


def test_without_references_everything_is_kept() -> None:
    (found,) = overlap([])([trained(INPUT)])
    assert found.keep


def test_the_starter_collection_has_a_clean_split_and_held_out_tasks_are_recognised() -> None:
    heldout = collection(0, split="heldout")
    assert curate(collection(0, split="train"), [("overlap", overlap(heldout))]).dropped == []
    first = {row.task: row for row in reversed(heldout)}
    others = [row for row in heldout if row.row != first[row.task].row]
    assert curate(others, [("overlap", overlap(list(first.values())))]).kept == []
