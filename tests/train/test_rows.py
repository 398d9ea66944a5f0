"""Planning steps: every row exactly once an epoch, capacity kept, the same plan whenever it is asked for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.example import Example, Message, Part, Provenance, assistant, user
from shinan.models import tiny
from shinan.models.chat import chat_format
from shinan.models.tokenizer import Tokenizer
from shinan.train.rows import group_by_length, plan_steps, split, tokenise

_LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(
    lengths=_LENGTHS, epochs=st.integers(1, 3), batch=st.integers(1, 20), micro=st.integers(1, 1000), seed=st.integers()
)
def test_every_epoch_covers_each_row_once(lengths: list[int], epochs: int, batch: int, micro: int, seed: int) -> None:
    steps = list(plan_steps(lengths, epochs=epochs, batch_size=batch, micro_tokens=micro, seed=seed))
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        rows = Counter(row for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for row in step.rows)
        assert rows == Counter(range(len(lengths)))
    assert all(1 <= len(step.rows) <= batch for step in steps)


@given(lengths=_LENGTHS, capacity=st.integers(1, 1000))
def test_groups_keep_the_capacity_or_hold_one_row(lengths: list[int], capacity: int) -> None:
    groups = list(group_by_length(range(len(lengths)), lengths, capacity))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or max(lengths[row] for row in group) * len(group) <= capacity


def test_the_plan_does_not_depend_on_the_capacity() -> None:
    lengths = [7, 3, 9, 1, 5, 8, 2]
    plans = [
        [set(step.rows) for step in plan_steps(lengths, epochs=2, batch_size=3, micro_tokens=m, seed=1)]
        for m in (1, 9, 99)
    ]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0][:3] != plans[0][3:]  # the second epoch has another order


def test_a_part_of_an_epoch_is_a_part_of_its_steps() -> None:
    whole = list(plan_steps([1] * 10, epochs=1, batch_size=2, micro_tokens=9, seed=0))
    assert list(plan_steps([1] * 10, epochs=0.4, batch_size=2, micro_tokens=9, seed=0)) == whole[:2]


@given(count=st.integers(1, 200), share=st.floats(0, 0.9), seed=st.integers())
def test_split_loses_nothing(count: int, share: float, seed: int) -> None:
    train, held = split(count, share, seed)
    assert sorted(train + held) == list(range(count))
    assert train
    assert len(held) == (max(1, round(share * count)) if share > 0 and count > 1 else 0)


def _tokenizer() -> Tokenizer:
    return Tokenizer(tiny.byte_tokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})


def test_rows_that_cannot_be_trained_on_are_dropped_with_the_reason() -> None:
    examples = [
        Example((user("q"), assistant("a")), provenance=Provenance("f", 0)),
        Example((user("q" * 100), assistant("a")), provenance=Provenance("f", 1)),
        Example((user("q"), assistant("a", train=False)), provenance=Provenance("f", 2)),
        Example((user("q"), user("q")), provenance=Provenance("f", 3)),
        Example((Message("user", (Part("q"),), train=None),), provenance=Provenance("f", 4)),
    ]
    rows, dropped = tokenise(examples, chat_format("gemma", _tokenizer()), max_tokens=60)
    assert [row.row for row in rows] == ["f#0"]
    reasons = {example.row: verdict.reason for example, verdict in dropped}
    assert reasons == {"f#1": "too_long", "f#2": "no_label", "f#3": "not_renderable", "f#4": "no_label"}


def test_the_terminator_is_trained() -> None:
    tokenizer = _tokenizer()
    rows, _ = tokenise([Example((user("q"), assistant("ab")))], chat_format("gemma", tokenizer), 99)
    trained = [token for token, on in zip(rows[0].ids, rows[0].mask, strict=True) if on]
    assert tokenizer.decode(trained[:-1], place="inside") == "ab"
    assert trained[-1] == tokenizer.special_id("<end_of_turn>")


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_examples_weight_goes_with_the_row(weight: float) -> None:
    rows, _ = tokenise([Example((user("q"), assistant("a")), weight=weight)], chat_format("gemma", _tokenizer()), 99)
    assert rows[0].weight == weight
