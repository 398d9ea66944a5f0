"""The bench's own arithmetic: every call and every row is counted once, and arms differ only in their rows."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench import self_instruct
from shinan.build.improve.self_instruct import self_instruct as build
from shinan.build.teachers import Teacher
from shinan.core.example import Example
from shinan.core.ledger import Ledger
from shinan.models.books import Books
from shinan.models.fake import FakeGenerator
from tests.build.improve.test_self_instruct import SEEDS, Script


def test_every_call_and_every_row_is_counted_once(tmp_path: Path) -> None:
    listing = " Paint a sign for the baker's door\n10. Draw the church from the hill\n11. Sing"
    fake = FakeGenerator(Script(listing, check=lambda _: " No, it is not one"))
    teacher = self_instruct.Counted(fake, Books(Ledger(tmp_path), fake.name))
    rows = list(build(7, SEEDS, teacher=Teacher(model=teacher, raw=True, licence="MIT"), instructions=1))
    found = self_instruct._counts(teacher, rows)
    assert found["calls"] == {"propose": 5, "classify": 1, "do": 1}
    assert found["new_tokens"].total() == sum(reply.new_tokens for _, reply in teacher.calls)
    assert found["cut_at_the_longest"].total() == found["cut_at_the_longest"]["classify"] == 1
    assert (found["accepted"], found["classification"], found["with_a_row"]) == (1, 0, 1)
    assert found["dropped"] == {"instructions": {"unfit_word": 1, "too_short": 1, "not_novel": 4}, "instances": {}}
    kept = sum(isinstance(row, Example) for row in rows)
    assert kept + sum(reasons.total() for reasons in found["dropped"].values()) == len(rows)


def test_arms_differ_in_their_rows_and_in_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    chosen = argparse.Namespace(seed=0, instructions=4, budget=8)
    cut = {"mix": {"caps": {"build": 9}}, "tune.validation": 0, "tune.epochs": self_instruct.EPOCHS}
    starter = self_instruct._starter(chosen, "starter", cut)
    written = self_instruct._written(chosen, "instruct", {"model": self_instruct.INSTRUCT}, cut)
    assert starter.build != written.build
    for part in ("model", "chat", "seed", "curate", "decontaminate", "licences", "mix", "tune", "evaluate"):
        assert getattr(starter, part) == getattr(written, part), part
    assert (starter.tune.validation, starter.tune.epochs) == (0, self_instruct.EPOCHS)
