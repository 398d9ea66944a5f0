"""Prompts answered again, and explained as a system turn asks."""

from __future__ import annotations

import pytest

from shinan.build.batches import TOGETHER
from shinan.build.distil.answer import SYSTEMS, explain, reanswer
from shinan.core.errors import DataError
from shinan.core.example import Example, Provenance, assistant, system, user
from shinan.models.fake import FakeGenerator
from tests.build.rows import asked, kept, reasons, task

ROWS = [task(0, "Name a bird.", output="A stone."), task(1, "Sort the numbers.", "3 1 2")]
TALK = Example(
    (system("Be brief."), user("Hello."), assistant("Hi."), user("What is a wren?")), provenance=Provenance("talk", 7)
)


def test_prompts_are_asked_as_they_stand_without_their_replies() -> None:
    fake = FakeGenerator(lambda request: f"So: {asked(request)}")
    rows = kept(reanswer(1, [*ROWS, TALK], teacher=fake, guard=False))
    assert [request.messages for request in fake.requests] == [ROWS[0].prompt, ROWS[1].prompt, TALK.messages]
    # arXiv 2304.03277, algorithm 1: temperature 1, top_p 1, max_tokens 512
    how = fake.requests[0].sampling
    assert (how.temperature, how.top_p, how.max_new_tokens) == (1.0, 1.0, 512)
    assert [row.reply for row in rows] == ["So: Name a bird.", "So: Sort the numbers.\n\n3 1 2", "So: What is a wren?"]
    assert [row.provenance.parents for row in rows] == [(ROWS[0].id,), (ROWS[1].id,), (TALK.id,)]
    assert {row.provenance.maker for row in rows} == {"model:fake"}


def test_bad_answers_are_counted() -> None:
    answers = iter(["", "I'm sorry, I can't.", "Ein Satz, der nicht auf Englisch ist und das auch nicht will."])
    judged = list(
        reanswer(
            1, [task(n, f"Say {n}.") for n in range(3)], teacher=FakeGenerator(lambda _: next(answers)), language="en"
        )
    )
    assert reasons(judged) == ["empty", "refusal", "other_language"]


def test_sixteen_system_turns_as_many_as_the_papers_table_has() -> None:
    assert len(set(SYSTEMS.text.splitlines())) == len(SYSTEMS.text.splitlines()) == 16


def test_explanations_are_asked_for_by_a_drawn_system_turn_which_stays() -> None:
    fake = FakeGenerator(lambda _: "Because it sings.")
    rows = kept(explain(1, [task(n, f"Say {n}.") for n in range(200)], teacher=fake))
    assert all(request.messages[0].role == "system" for request in fake.requests)
    assert {row.messages[0].text for row in rows} == set(SYSTEMS.text.splitlines())
    assert [row.messages[:2] for row in rows] == [request.messages for request in fake.requests]


def test_a_rows_own_system_turn_is_not_shown() -> None:
    fake = FakeGenerator(lambda _: "Because it sings.")
    [row] = kept(explain(1, [TALK], teacher=fake, systems=["Explain."]))
    assert [message.text for message in fake.requests[0].messages] == ["Explain.", "Hello.", "Hi.", "What is a wren?"]
    assert row.messages[0] == system("Explain.")


@pytest.mark.parametrize(("erase", "opening"), [("Be careful.", [system("Be careful.")]), ("", [])])
def test_prompt_erasure_trains_with_another_system_turn(erase: str, opening: list[object]) -> None:
    fake = FakeGenerator(lambda _: "Because it sings.")
    [row] = kept(explain(1, ROWS[:1], teacher=fake, systems=["Explain."], erase=erase))
    assert fake.requests[0].messages[0] == system("Explain.")
    assert list(row.messages) == [*opening, *ROWS[0].prompt, assistant("Because it sings.")]
    assert row.tags["asked_with"] == "Explain."


def test_rows_without_a_prompt_are_told() -> None:
    with pytest.raises(DataError, match="none of 1 rows has a prompt"):
        list(reanswer(1, [Example((assistant("x"),))], teacher=FakeGenerator()))


def test_a_request_that_fails_takes_no_other_with_it() -> None:
    from dataclasses import replace

    class Failing(FakeGenerator):
        def generate(self, requests, done=None):  # type: ignore[no-untyped-def]
            first, *others = super().generate(requests, done)
            return [replace(first, text="", finish="failed", error="HTTP 500"), *others]

    judged = list(reanswer(1, ROWS, teacher=Failing(lambda _: "Fine.")))
    assert reasons(judged) == ["failed"]
    assert [row.reply for row in kept(judged)] == ["Fine."]


@pytest.mark.promise2
def test_a_budget_ends_the_work_between_batches_and_more_of_it_keeps_the_rows() -> None:
    seeds = [task(n, f"Say {n}.") for n in range(2 * TOGETHER + 1)]

    def run(budget: int | None) -> list[Example]:
        return kept(reanswer(1, seeds, teacher=FakeGenerator(lambda _: "Fine."), budget=budget))

    whole = run(None)
    assert [len(run(budget)) for budget in (1, TOGETHER, TOGETHER + 1)] == [TOGETHER, TOGETHER, 2 * TOGETHER]
    assert run(1) == whole[:TOGETHER]
    assert len(whole) == len(seeds)
