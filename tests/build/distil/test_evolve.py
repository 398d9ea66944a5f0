"""Evol-Instruct on a scripted model: what is asked, what is eliminated and why, and where a chain goes on."""

from __future__ import annotations

from collections import Counter

import pytest

from shinan.build.distil.evolve import CODE, EQUAL, IN_BREADTH, IN_DEPTH, OPERATIONS, evolve
from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request
from tests.build.rows import asked, kept, reasons, task

SEEDS = [task(0, "Name a bird.", output="A robin."), task(1, "Sort the numbers.", "3 1 2")]
REWRITES = ("You rewrite prompts.", "You create prompts.")


class Teacher:
    """Rewrites `X` to `X+`, finds nothing equal, and answers `The answer to X+`, but for what `others` say."""

    def __init__(self, **others: str) -> None:
        self.others = others

    def __call__(self, request: Request) -> str:
        text = asked(request)
        if text.startswith(REWRITES):
            start = text.split("Given Prompt#:\n")[1].split("\n#")[0]
            return self.others.get("rewrite", start + "+")
        if text.startswith("Compare two instructions"):
            return self.others.get("judge", "Not Equal")
        return self.others.get("answer", f"The answer to {text}")


def test_what_is_asked_in_a_round() -> None:
    fake = FakeGenerator(Teacher())
    rows = kept(evolve(5, SEEDS, teacher=fake, rounds=1))
    rewrites, judgements, answers = fake.requests[:2], fake.requests[2:4], fake.requests[4:]
    assert [asked(request).startswith(REWRITES) for request in rewrites] == [True, True]
    assert "\nSort the numbers.\n3 1 2\n" in asked(rewrites[1])
    assert "The first instruction:\nName a bird.\n\nThe second instruction:\nName a bird.+" in asked(judgements[0])
    assert [asked(request) for request in answers] == ["Name a bird.+", "Sort the numbers.\n3 1 2+"]
    # github.com/nlpxucan/WizardLM, Evol_Instruct/openai_access.py: temperature 1, top_p 0.95, max_tokens 2048
    for request in rewrites + answers:
        how = request.sampling
        assert (how.temperature, how.top_p, how.max_new_tokens) == (1.0, 0.95, 2048)
    assert [asked(Request(row.messages[:1])) for row in rows] == ["Name a bird.+", "Sort the numbers.\n3 1 2+"]
    assert [row.reply for row in rows] == ["The answer to Name a bird.+", "The answer to Sort the numbers.\n3 1 2+"]
    assert len({request.seed for request in fake.requests}) == 6


def test_four_rounds_each_from_what_the_one_before_kept() -> None:
    fake = FakeGenerator(Teacher())
    rows = kept(evolve(5, SEEDS[:1], teacher=fake))
    assert [row.messages[0].text for row in rows] == ["Name a bird." + "+" * n for n in (1, 2, 3, 4)]
    assert [row.tags["round"] for row in rows] == ["1", "2", "3", "4"]
    assert [row.provenance.parents for row in rows] == [(SEEDS[0].id,), *((row.id,) for row in rows[:3])]
    assert len({row.task for row in rows}) == 1
    assert rows[0].provenance.maker == "model:fake"


def test_six_operations_each_as_likely_and_five_for_code() -> None:
    seeds = [task(n, f"Task number {n}, please.") for n in range(600)]
    drawn = Counter(row.tags["operation"] for row in kept(evolve(1, seeds, teacher=FakeGenerator(Teacher()), rounds=1)))
    assert (
        drawn.keys()
        == OPERATIONS["text"].keys()
        == {
            "constraint",
            "deepen",
            "concretise",
            "reasoning",
            "input",
            "breadth",
        }
    )
    assert all(60 <= count <= 145 for count in drawn.values())  # 100 expected, standard deviation 9
    assert len(OPERATIONS["code"]) == 5
    assert not {"breadth", "deepen"} & OPERATIONS["code"].keys()


def test_each_operation_asks_with_its_own_method() -> None:
    fake = FakeGenerator(Teacher())
    rows = kept(evolve(1, [task(n, f"Task {n}.") for n in range(60)], teacher=fake, rounds=1))
    for request, row in zip(fake.requests[:60], rows, strict=True):
        operation = row.tags["operation"]
        prompt = IN_BREADTH if operation == "breadth" else IN_DEPTH
        assert row.tags["evolved"] == prompt.id
        assert OPERATIONS["text"][operation] in asked(request)


def test_code_has_a_prompt_of_its_own() -> None:
    def teacher(request: Request) -> str:
        return "Not equal." if asked(request).startswith("Compare") else "Sort them in place."

    fake = FakeGenerator(teacher)
    [row] = kept(evolve(1, SEEDS[:1], teacher=fake, kind="code", rounds=1))
    assert (row.tags["evolved"], row.messages[0].text) == (CODE.id, "Sort them in place.")
    assert OPERATIONS["code"][row.tags["operation"]] in asked(fake.requests[0])


@pytest.mark.parametrize(
    ("others", "reason", "calls"),
    [
        ({"rewrite": "Name a bird."}, "unchanged", 1),
        ({"rewrite": "#Rewritten Prompt#: Name two birds."}, "leaks_prompt", 1),
        ({"rewrite": "The given prompt asks for a bird."}, "leaks_prompt", 1),
        ({"rewrite": " "}, "empty", 1),
        ({"rewrite": "I'm sorry, but I can't do that."}, "refusal", 1),
        ({"judge": "Equal"}, "no_gain", 2),
        ({"judge": "equal."}, "no_gain", 2),
        ({"judge": "Well, that depends"}, "unparsable", 2),
        ({"answer": "Here it is, with all that is so sorry about it."}, "sorry", 3),
        ({"answer": "It is what it is."}, "says_nothing", 3),
        ({"answer": "..."}, "says_nothing", 3),
        ({"answer": ""}, "empty", 3),
    ],
)
def test_what_is_eliminated_and_when(others: dict[str, str], reason: str, calls: int) -> None:
    """The answer to an instruction that is eliminated is never paid for."""
    fake = FakeGenerator(Teacher(**others))
    judged = list(evolve(5, SEEDS[:1], teacher=fake, rounds=1))
    assert (reasons(judged), len(fake.requests)) == ([reason], calls)


def test_sorry_in_a_long_answer_is_no_refusal() -> None:
    long = "A poem: " + " ".join(f"word{n}" for n in range(90)) + " sorry"
    assert len(kept(evolve(5, SEEDS[:1], teacher=FakeGenerator(Teacher(answer=long)), rounds=1))) == 1


def test_an_eliminated_instruction_is_tried_again_as_it_was() -> None:
    fake = FakeGenerator(Teacher(judge="Equal"))
    list(evolve(5, SEEDS[:1], teacher=fake, rounds=3))
    rewrites = [asked(request) for request in fake.requests if asked(request).startswith(REWRITES)]
    assert len(rewrites) == 3
    assert all("\nName a bird.\n" in text for text in rewrites)


def test_without_elimination_nobody_is_asked_to_judge() -> None:
    fake = FakeGenerator(Teacher(answer="It is what it is."))
    assert len(kept(evolve(5, SEEDS, teacher=fake, rounds=1, eliminate=False))) == 2
    assert len(fake.requests) == 4


@pytest.mark.promise2
def test_a_larger_budget_keeps_the_rows_of_a_smaller_one() -> None:
    def run(budget: int | None) -> list[Example]:
        seeds = [task(n, f"Task {n}.") for n in range(6)]
        return kept(evolve(5, seeds, teacher=FakeGenerator(Teacher()), rounds=2, together=2, budget=budget))

    whole = run(None)
    assert (len(run(1)), len(run(7)), len(whole)) == (2, 4, 12)
    assert run(7) == whole[:4]


def test_no_row_to_begin_with_is_told() -> None:
    with pytest.raises(DataError, match="no seed is left"):
        list(evolve(5, [], teacher=FakeGenerator()))


def test_the_judge_sees_both_and_is_greedy() -> None:
    assert EQUAL.fill(first="a", second="b").count("instruction:\n") == 2
    fake = FakeGenerator(Teacher())
    list(evolve(5, SEEDS[:1], teacher=fake, rounds=1))
    assert fake.requests[1].sampling.temperature == 0
