"""Instruction back-translation, step by step."""

from __future__ import annotations

import pytest

from shinan.build.author import Ask, Reply
from shinan.build.improve.backtranslate import backtranslate, marked, reversed_rows, self_curate
from shinan.build.prompts import PLAIN
from shinan.build.rating import score_of
from shinan.core.errors import DataError
from shinan.core.example import Example, Provenance, assistant, system, user
from shinan.core.verdict import Verdict
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Request, Sampling
from tests.build.rows import asked, kept, reasons, task

SEED = task(0, "Sort the numbers.", "3 1 2", "1 2 3")
TEXT = Example((assistant("Wrens are small birds that sing loudly."),), provenance=Provenance("web", 4, "CC-BY-4.0"))


def test_rows_are_turned_round() -> None:
    talk = Example((user("a"), assistant("b"), user("c"), assistant("d")))
    judged = list(reversed_rows(1, [SEED, talk, task(2, "No reply.")]))
    [row] = kept(judged)
    assert row.messages == (user("1 2 3"), assistant("Sort the numbers.\n\n3 1 2"))
    assert row.provenance.parents == (SEED.id,)
    assert reasons(judged) == ["not_one_question"] * 2
    names = {(row if isinstance(row, Example) else row[0]).row for row in judged}
    assert len(names) == 3
    assert names.isdisjoint(row.row for row in kept(reversed_rows(2, [SEED])))  # another stage of the recipe


def test_a_text_gets_the_instruction_that_it_answers() -> None:
    fake = FakeGenerator(lambda _: " Tell me about wrens.\n", name="backward")
    [row] = kept(backtranslate(1, [TEXT], teacher=fake))
    assert fake.requests[0].messages == (user("Wrens are small birds that sing loudly."),)
    assert fake.requests[0].sampling == Sampling(256, 0.7, 0.9)  # section 3.1
    assert [message.text for message in row.messages] == [
        "Tell me about wrens.",
        "Wrens are small birds that sing loudly.",
    ]
    assert (row.provenance.licence, row.provenance.maker) == ("CC-BY-4.0 AND unknown", "model:backward")


def test_an_instruction_that_copies_the_text_is_dropped() -> None:
    long = Example((user("the wren is a small brown bird that sings very loudly in our old garden"),))
    assert reasons(backtranslate(1, [long], teacher=FakeGenerator())) == ["copy"]


def test_no_text_is_told() -> None:
    with pytest.raises(DataError, match="none of 1 rows has a text"):
        list(backtranslate(1, [Example(())], teacher=FakeGenerator()))


def reply(text: str) -> Reply:
    return Reply(Ask(PLAIN, Request(prompt="x")), Completion(text))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is clear.\nScore: 5", 5),
        ("**Score: 4**", 4),
        ("Good.\n\nscore:3.", 3),
        ("Fine.\nScore: 2/5\n\n", 2),
    ],
)
def test_scores_that_are_read(text: str, score: int) -> None:
    assert score_of(reply(text)) == score


@pytest.mark.parametrize(
    "text", ["Score: 6", "Score: 0", "Score: 4.5", "Score: 5, or 4", "Score: 5\nI hope this helps.", "5", "", "Score:"]
)
def test_scores_that_are_not_there(text: str) -> None:
    assert isinstance(score_of(reply(text)), Verdict)


def test_a_model_curates_what_it_was_given() -> None:
    rows = [task(n, f"Say {n}.", output=f"{n}") for n in range(4)]
    points = {"0": "5", "1": "4", "2": "five", "3": "5"}
    fake = FakeGenerator(lambda request: f"So.\nScore: {points[asked(request).rsplit('Answer: ')[-1].strip()]}")
    judged = list(self_curate(1, [*rows, task(9, "No reply.")], teacher=fake))
    assert [row.messages for row in kept(judged)] == [rows[0].messages, rows[3].messages]
    assert kept(judged)[0].scores == {"points": 5.0}
    assert kept(judged)[0].provenance == rows[0].provenance
    assert sorted(reasons(judged)) == ["no_pair", "too_few_points", "unparsable"]
    assert len(fake.requests) == 4


@pytest.mark.promise1
def test_rows_that_the_budget_left_out_are_accounted_for() -> None:
    rows = [task(n, f"Say {n}.", output=f"{n}") for n in range(150)]
    judged = list(self_curate(1, rows, teacher=FakeGenerator(lambda _: "Score: 5"), budget=1))
    assert len(judged) == 150
    assert len(kept(judged)) == 100
    assert set(reasons(judged)) == {"over_budget"}


def test_four_points_may_be_enough() -> None:
    fake = FakeGenerator(lambda _: "Score: 4")
    assert len(kept(self_curate(1, [SEED], teacher=fake, at_least=4))) == 1


def test_the_two_kinds_are_marked() -> None:
    [plain, opened] = kept(marked(1, [SEED, Example((system("Be brief."), user("a"), assistant("b")))]))
    assert plain.messages == (system("Answer in the style of an AI Assistant."), *SEED.messages)
    assert opened.messages[0] == system("Be brief. Answer in the style of an AI Assistant.")
