"""Errors say what, where and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import (
    ConfigError,
    DataError,
    ModelError,
    Problem,
    RunError,
    ShinanError,
    TrainingError,
    nearest,
)

pytestmark = pytest.mark.promise10


@pytest.mark.parametrize("kind", [DataError, ModelError, TrainingError, RunError])
def test_every_kind_is_caught_as_one_family(kind: type[ShinanError]) -> None:
    with pytest.raises(ShinanError) as caught:
        raise kind("the row has no reply", where="data.jsonl:3", fix="add an output")
    error = caught.value
    assert str(error) == "data.jsonl:3: the row has no reply\n  do this: add an output"
    assert (error.what, error.where, error.fix) == ("the row has no reply", "data.jsonl:3", "add an output")


def test_what_alone_is_a_whole_sentence() -> None:
    assert str(RunError("the disk is full")) == "the disk is full"
    assert str(RunError("the disk is full", fix="free 2 GB")) == "the disk is full\n  do this: free 2 GB"
    assert str(DataError("not JSON", where="a.jsonl:1")) == "a.jsonl:1: not JSON"


def test_a_config_error_tells_every_problem() -> None:
    problems = [
        Problem("unknown key 'modle'", "r.yaml:1", "did you mean 'model'?"),
        Problem("must be > 0", "r.yaml:7: lr"),
    ]
    error = ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == ("r.yaml:1: unknown key 'modle'\n  do this: did you mean 'model'?\nr.yaml:7: lr: must be > 0")


def test_nearest_offers_the_close_name_else_the_list() -> None:
    assert nearest("rogue_l", ["exact_match", "rouge_l"]) == "did you mean 'rouge_l'?"
    assert nearest("zzz", ["b", "a"]) == "use one of: a, b"
    assert nearest("zzz", []) == ""
    assert nearest("zzz", [f"name{i:02}" for i in range(14)]).endswith("name11, …")


@given(st.sampled_from(["exact_match", "rouge_l", "squad_f1"]), st.integers(0, 6))
def test_one_lost_letter_is_always_found(name: str, position: int) -> None:
    mistyped = name[:position] + name[position + 1 :]
    assert nearest(mistyped, ["exact_match", "rouge_l", "squad_f1"]) == f"did you mean {name!r}?"
