"""Several answers to a prompt: the best, all that are right, or the best and the worst as a pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shinan.build.improve.choose import best_of, preferences
from shinan.core.errors import ConfigError
from shinan.core.example import assistant
from shinan.core.registry import bind
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request, Sampling
from tests.build.rows import asked, kept, reasons, task

ROW = task(0, "What is 2 + 2?", output="4")


def answers(*texts: str) -> FakeGenerator:
    """Sample n of a prompt gets text n."""
    return FakeGenerator(lambda request: texts[request.sample], name="student")


def points(**given: str) -> FakeGenerator:
    """A judge that gives the answer named its points."""

    def judge(request: Request) -> str:
        answer = asked(request).split("Answer: ")[-1].strip()
        return f"Fair enough.\nScore: {given[answer]}"

    return FakeGenerator(judge, name="judge")


def test_samples_are_told_apart_and_drawn_at_the_papers_temperature() -> None:
    fake = answers("4", "5", "4", "four")
    list(best_of(1, [ROW], teacher=fake, scorer="exact_match"))
    assert [request.sample for request in fake.requests] == [0, 1, 2, 3]
    assert len({request.seed for request in fake.requests}) == 4
    assert {request.sampling for request in fake.requests} == {Sampling(512, 0.7)}
    assert {request.messages for request in fake.requests} == {ROW.prompt}


def test_the_best_is_the_first_of_equals() -> None:
    judged = list(best_of(1, [ROW], teacher=answers("5", "4", "4.", "6"), scorer="exact_match"))
    [row] = kept(judged)
    assert (row.reply, dict(row.scores)) == ("4", {"exact_match": 1.0})
    assert reasons(judged) == ["not_best"] * 3
    assert row.provenance.parents == (ROW.id,)


def test_rejection_sampling_keeps_all_right_answers_that_differ() -> None:
    judged = list(
        best_of(1, [ROW], teacher=answers("4", "5", "4", "4."), scorer="exact_match", keep="all", at_least=1.0)
    )
    assert [row.reply for row in kept(judged)] == ["4", "4."]
    assert reasons(judged) == ["below", "repeated"]


@pytest.mark.promise1
def test_every_answer_is_a_row_kept_or_dropped() -> None:
    texts = ("4", "", "I'm sorry, but I can't do sums.", "5")
    judged = list(best_of(1, [ROW], teacher=answers(*texts), scorer="exact_match"))
    assert len(judged) == 4
    assert reasons(judged) == ["empty", "refusal", "not_best"]


def test_a_row_that_cannot_be_scored_is_no_zero() -> None:
    unanswered = task(1, "What is 3 + 3?")
    judged = list(best_of(1, [unanswered], teacher=answers("6", "7", "8", "9"), scorer="exact_match"))
    assert reasons(judged) == ["unscored"] * 4


def test_a_judge_gives_the_values() -> None:
    judge = points(good="5", fair="3", bad="1")
    [row] = kept(best_of(1, [ROW], teacher=answers("fair", "good", "bad", "fair"), judge=judge))
    assert (row.reply, dict(row.scores)) == ("good", {"judge": 5.0})
    assert "Instruction: What is 2 + 2?" in asked(judge.requests[0])
    assert len(judge.requests) == 4


def test_a_judge_whose_score_cannot_be_read_has_none() -> None:
    judge = points(good="5 or so", fair="3", bad="1")
    judged = list(best_of(1, [ROW], teacher=answers("fair", "good", "bad", "bad"), judge=judge))
    assert [row.reply for row in kept(judged)] == ["fair"]
    assert reasons(judged) == ["unparsable", "not_best", "not_best"]


def test_a_pair_of_the_best_and_the_worst() -> None:
    judge = points(good="5", fair="3", bad="1")
    [pair] = kept(preferences(1, [ROW], teacher=answers("fair", "bad", "good", "bad"), judge=judge))
    assert (pair.reply, pair.rejected) == ("good", (assistant("bad"),))
    assert dict(pair.scores) == {"chosen": 5.0, "rejected": 1.0}


@pytest.mark.parametrize(
    ("texts", "margin", "reason"),
    [
        (("fair", "fair", "fair", "fair"), 0.0, "no_margin"),
        (("fair", "good", "fair", "fair"), 2.0, "no_margin"),
        (("", "", "", ""), 0.0, "no_answer"),
    ],
)
def test_prompts_without_a_pair(texts: Sequence[str], margin: float, reason: str) -> None:
    judge = points(good="5", fair="3")
    assert reasons(preferences(1, [ROW], teacher=answers(*texts), judge=judge, margin=margin)) == [reason]


@pytest.mark.parametrize("values", [{}, {"scorer": "exact_match", "judge": FakeGenerator()}])
def test_one_way_of_valuing_is_needed(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="give one of `scorer` and `judge`"):
        bind("build", "best_of", {"teacher": answers("4"), **values})


def test_a_scorer_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"no scorer is named 'exact_macht'\n  do this: did you mean 'exact_match'"):
        bind("build", "preferences", {"teacher": answers("4"), "scorer": "exact_macht"})
