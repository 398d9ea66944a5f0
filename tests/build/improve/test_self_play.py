"""SPIN's data step: the rows' replies win against the model's own."""

from __future__ import annotations

from shinan.build.improve.self_play import self_play
from shinan.core.example import assistant
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Sampling
from tests.build.rows import kept, reasons, task

ROWS = [task(0, "Name a bird.", output="A robin."), task(1, "Name a fish.", output="A carp."), task(2, "Name a tree.")]


def test_the_model_answers_and_loses() -> None:
    fake = FakeGenerator({"Name a bird.": "A stone.", "Name a fish.": " A carp.\n", "Name a tree.": "An oak."})
    judged = list(self_play(1, ROWS, player=fake))
    [pair] = kept(judged)
    assert (pair.messages, pair.rejected) == (ROWS[0].messages, (assistant("A stone."),))
    assert pair.provenance.parents == (ROWS[0].id,)
    assert pair.provenance.maker == ROWS[0].provenance.maker  # who wrote what is trained on
    assert pair.tags["player"] == fake.name
    assert reasons(judged) == ["same", "no_reply"]
    # github.com/uclaml/SPIN, spin/generate_vllm.py: temperature 1, 256 tokens
    assert {request.sampling for request in fake.requests} == {Sampling(256, 1.0)}


def test_an_answer_that_was_cut_is_rejected_all_the_same_and_an_empty_one_is_none() -> None:
    fake = FakeGenerator(lambda request: "word " * 300 if "bird" in request.messages[0].text else "")
    judged = list(self_play(1, ROWS[:2], player=fake))
    assert len(kept(judged)[0].rejected[0].text.split()) == 256
    assert reasons(judged) == ["empty"]
