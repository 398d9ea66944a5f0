"""The bench of the novelty filter, on a pool of a few texts."""

from __future__ import annotations

import random

import pytest

from bench import novelty

KNOWN = ["Name a bird of the northern coast.", "Write a short poem about the winter sea.", "Is the moon a star?"]


def test_it_times_both_sides_and_counts_what_is_new() -> None:
    row, facts = novelty.measure("birds", KNOWN, size=20, candidates=10, pairs=20)
    assert (row.workload, row.metric, row.n) == ("novelty, 20 birds", "ms", 5)
    assert row.ours > 0
    assert row.ratio == pytest.approx(sorted(theirs / ours for ours, theirs in facts["blocks"])[2])
    assert 0 <= facts["new"] <= facts["of"] == 10
    assert facts["texts"] == 3


def test_a_pair_that_is_decided_differently_ends_it() -> None:
    novelty.compare([(KNOWN[0], KNOWN[0]), ("猫", "猫")], [1.0, 0.0])
    with pytest.raises(ValueError, match="decided differently"):
        novelty.compare([(KNOWN[0], KNOWN[1])], [0.9])


def test_variations_keep_their_length_and_half_of_their_words() -> None:
    draw = random.Random(1)
    lengths = {len(text.split()) for text in KNOWN}
    assert all(len(novelty.varied(draw, KNOWN).split()) in lengths for _ in range(50))
    assert len(novelty.cut("word " * 200).split()) == 150
