"""Unnatural Instructions on a scripted model: fixed sets of three, a fourth, its answer, and other wordings."""

from __future__ import annotations

import re

import pytest

from shinan.build.distil.unnatural import unnatural
from shinan.build.instructions import as_messages
from shinan.core.errors import DataError
from shinan.core.example import Example, Provenance
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request
from tests.build.rows import asked, kept, reasons, task

SEEDS = [task(n, f"Do thing number {n}.", f"input {n}", f"output {n}") for n in range(20)]
CHOICE = Example(
    as_messages("Is it good?", "It is fine.", "yes"), choices=("yes", "no"), provenance=Provenance("seeds", 99)
)


class Teacher:
    """Makes a new task each time, answers it, and rewords instructions by numbering them."""

    def __init__(self) -> None:
        self.made = self.reworded = 0

    def __call__(self, request: Request) -> str:
        text = asked(request)
        if text.startswith("Here are examples"):
            self.made += 1
            return f" New task {self.made}\nInput: in {self.made}\nConstraints: None."
        if text.startswith("Say the instruction"):
            self.reworded += 1
            return f"Wording {self.reworded}"
        return "The output."


def test_what_is_asked() -> None:
    fake = FakeGenerator(Teacher())
    rows = kept(unnatural(1, [*SEEDS, CHOICE], teacher=fake, tasks=2, requests=2))
    elicit, answer, reword = fake.requests[:2], fake.requests[2:4], fake.requests[4:]
    assert len(reword) == 4  # two wordings of each task
    assert [request.sampling.top_p for request in fake.requests] == [0.99] * 2 + [1.0] * 2 + [0.99] * 4
    assert [request.sampling.temperature for request in answer] == [0, 0]  # outputs are greedy
    assert asked(elicit[0]).count("Constraints: ") == 3
    assert asked(elicit[0]).endswith("Example 4\nInstruction:")
    assert asked(answer[0]) == "Instruction: New task 1\nInput: in 1\nConstraints: None.\nOutput:"
    assert [row.messages for row in rows[:2]] == [
        as_messages(f"New task {n}", f"in {n}", "The output.") for n in (1, 2)
    ]
    assert [row.messages[0].parts[0].text for row in rows[2:]] == [f"Wording {n}" for n in (1, 2, 3, 4)]
    assert {row.reply for row in rows} == {"The output."}
    assert [row.task for row in rows] == [rows[0].task, rows[1].task, *[rows[0].task] * 2, *[rows[1].task] * 2]
    assert [row.provenance.parents for row in rows[2:]] == [(rows[0].id,)] * 2 + [(rows[1].id,)] * 2


def test_five_fixed_sets_of_three_fifteen_tasks_in_all() -> None:
    fake = FakeGenerator(Teacher())
    list(unnatural(1, SEEDS, teacher=fake, tasks=40, requests=20, paraphrases=0))
    shown = {
        tuple(re.findall(r"Do thing number (\d+)", asked(request)))
        for request in fake.requests
        if asked(request).startswith("Here are")
    }
    assert len(shown) == 5
    assert len({number for triple in shown for number in triple}) == 15


def test_options_are_constraints_and_stay_with_the_instruction() -> None:
    def teacher(request: Request) -> str:
        if asked(request).startswith("Here are"):
            return "Is it late?\nInput: It is noon.\nConstraints: The output is one of: yes, no."
        return "no"

    fake = FakeGenerator(teacher)
    [row] = kept(unnatural(1, [CHOICE, *SEEDS[:2]], teacher=fake, tasks=1, requests=1, paraphrases=0))
    assert "Constraints: The output is one of: yes, no." in asked(fake.requests[0])
    assert row.messages[0].text == "Is it late?\nThe output is one of: yes, no.\n\nIt is noon."


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Only an instruction", "unparsable"),
        ("No input\nConstraints: None.", "unparsable"),
        ("Do thing number 3.\nInput: input 3\nConstraints: None.", "repeated"),
        ("do  Thing number 3\nInput: Input 3\nConstraints: anything", "repeated"),
        ("I'm sorry, but I can't.\nInput: x\nConstraints: None.", "refusal"),
        ("Schreibe einen Satz über die Katze und den Hund.\nInput: x\nConstraints: None.", "other_language"),
        ("", "empty"),
    ],
)
def test_tasks_that_are_dropped(reply: str, reason: str) -> None:
    judged = list(unnatural(1, SEEDS[3:6], teacher=FakeGenerator(lambda _: reply), tasks=1, requests=1))
    assert not kept(judged)
    assert set(reasons(judged)) == {reason}
    assert len(judged) == 10  # rounds without anything new


def test_the_same_task_twice_counts_once() -> None:
    def teacher(request: Request) -> str:
        return "Sing.\nInput: a song\nConstraints: None." if "Here are" in asked(request) else "La."

    judged = list(unnatural(1, SEEDS, teacher=FakeGenerator(teacher), tasks=5, requests=3, paraphrases=1))
    assert len(kept(judged)) == 2  # the task, and one other wording
    assert reasons(judged)[0] == "repeated"


def test_too_few_rows_are_told() -> None:
    with pytest.raises(DataError, match="2 of 3 rows have an instruction and an input; 3 are needed"):
        list(unnatural(1, [*SEEDS[:2], task(50, "No input.")], teacher=FakeGenerator()))
