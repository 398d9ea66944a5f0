"""The Scorer seam: what a plain function must look like to be one."""

from __future__ import annotations

from shinan.core.example import Example, user
from shinan.core.score import Score, Scorer


def contains(example: Example, reply: str) -> Score:
    if not example.targets:
        return Score(None, explanation="no target", by="contains")
    return Score(float(any(target in reply for target in example.targets)), answer=reply, by="contains")


def test_a_function_is_a_scorer_and_unscored_is_not_zero() -> None:
    scorer: Scorer = contains
    item = Example((user("2 + 2?"),), targets=("4", "four"))
    assert [scorer(item, reply).value for reply in ("It is four.", "5")] == [1.0, 0.0]
    unscored = scorer(Example((user("2 + 2?"),)), "4")
    assert unscored.value is None
    assert (unscored.explanation, unscored.answer, unscored.parts) == ("no target", "", {})


def test_scores_are_compared_by_content_and_share_no_parts() -> None:
    assert Score(0.5, by="a") == Score(0.5, by="a") != Score(0.5, by="b")
    assert Score(None).parts is not Score(None).parts
