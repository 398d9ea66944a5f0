"""Rows that a model wrote around another's text stand under the terms of both."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from shinan.build.distil.answer import explain, reanswer
from shinan.build.distil.dialogue import dialogue
from shinan.build.distil.evolve import evolve
from shinan.build.improve.choose import best_of, preferences
from shinan.build.improve.self_play import self_play
from shinan.build.teachers import Teacher
from shinan.core.dataset import Judged
from shinan.core.example import Example, Provenance, assistant, user
from shinan.models.fake import FakeGenerator
from tests.build.rows import kept

ROW = Example((user("Name a bird."), assistant("A robin.")), provenance=Provenance("own", 0, "CC-BY-NC-4.0", "human"))
TEACHER = Teacher(model=FakeGenerator(lambda request: f"It is wren {request.sample}."), licence="MIT")
ASKER = Teacher(model=FakeGenerator(lambda _: "And where does it nest?"), licence="CC-BY-SA-4.0")
JUDGE = FakeGenerator(lambda request: f"Score: {2 + ('wren 1' in request.messages[-1].text)}")


@pytest.mark.parametrize(
    ("judged", "terms"),
    [
        (reanswer(1, [ROW], teacher=TEACHER), "CC-BY-NC-4.0 AND MIT"),
        (explain(1, [ROW], teacher=TEACHER), "CC-BY-NC-4.0 AND MIT"),
        (best_of(1, [ROW], teacher=TEACHER, judge=JUDGE), "CC-BY-NC-4.0 AND MIT"),
        (preferences(1, [ROW], teacher=TEACHER, judge=JUDGE), "CC-BY-NC-4.0 AND MIT"),
        (self_play(1, [ROW], player=TEACHER), "CC-BY-NC-4.0 AND MIT"),
        (evolve(1, [ROW], teacher=TEACHER, rounds=2, eliminate=False), "CC-BY-NC-4.0 AND MIT"),
        (dialogue(1, [ROW], teacher=TEACHER, asker=ASKER, guard=False), "CC-BY-NC-4.0 AND CC-BY-SA-4.0 AND MIT"),
    ],
    ids=["reanswer", "explain", "best_of", "preferences", "self_play", "evolve", "dialogue"],
)
def test_a_row_that_holds_anothers_prompt_keeps_its_terms(judged: Iterable[Judged], terms: str) -> None:
    rows = kept(judged)
    assert [row.provenance.licence for row in rows] == [terms] * len(rows) != []
