"""Planning steps: every row exactly once an epoch, capacity kept, the same plan whenever it is asked for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, Provenance, assistant, user
from shinan.models import tiny
from shinan.models.chat import chat_format
from shinan.models.tokenizer import Tokenizer
from shinan.train.rows import plan_steps, split, tokenise


@pytest.mark.promise1
@given(
    count=st.integers(1, 60),
    epochs=st.integers(1, 3),
    batch=st.integers(1, 20),
    together=st.integers(1, 5),
    seed=st.integers(),
)
def test_every_epoch_covers_each_row_once(count: int, epochs: int, batch: int, together: int, seed: int) -> None:
    tasks = [str(i % 7) for i in range(count)]
    steps = list(plan_steps(count, epochs=epochs, batch_size=batch, seed=seed, tasks=tasks, together=together))
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        rows = Counter(row for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for row in step)
        assert rows == Counter(range(count))
    assert all(1 <= len(step) <= batch for step in steps)


def test_each_epoch_has_an_order_of_its_own() -> None:
    steps = list(plan_steps(7, epochs=2, batch_size=3, seed=1))
    assert steps[:3] != steps[3:]
    assert steps == list(plan_steps(7, epochs=2, batch_size=3, seed=1))


def test_a_part_of_an_epoch_is_a_part_of_its_steps() -> None:
    whole = list(plan_steps(10, epochs=1, batch_size=2, seed=0))
    assert list(plan_steps(10, epochs=0.4, batch_size=2, seed=0)) == whole[:2]


def test_instances_of_a_task_are_drawn_together() -> None:
    tasks = [f"task {i % 6}" for i in range(30)]
    for step in plan_steps(30, epochs=2, batch_size=5, seed=3, tasks=tasks, together=5):
        assert len({tasks[index] for index in step}) == 1


@pytest.mark.promise1
@given(count=st.integers(1, 200), share=st.floats(0, 0.999), seed=st.integers())
@example(count=2, share=0.8, seed=0)
def test_split_loses_nothing(count: int, share: float, seed: int) -> None:
    train, held = split([str(number) for number in range(count)], share, seed)
    assert sorted(train + held) == list(range(count))
    assert train
    assert len(held) == (min(count - 1, max(1, round(share * count))) if share > 0 and count > 1 else 0)


def test_a_split_never_changes() -> None:
    """As the first version, which knew no copies, drew it."""
    assert split([str(number) for number in range(20)], 0.2, 7)[1] == [0, 10, 14, 18]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.floats(0, 0.9), st.integers())
def test_copies_of_a_row_are_on_one_side(rows: list[int], share: float, seed: int) -> None:
    train, held = split([str(row) for row in rows], share, seed)
    assert sorted(train + held) == list(range(len(rows)))
    assert {rows[i] for i in train}.isdisjoint({rows[i] for i in held})
    different = len(set(rows))
    most = min(different - 1, max(1, round(share * different)))
    assert len({rows[i] for i in held}) == (most if share > 0 and different > 1 else 0)


def _tokenizer() -> Tokenizer:
    return Tokenizer(tiny.byte_tokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})


@pytest.mark.promise1
@pytest.mark.promise5
def test_rows_that_cannot_be_trained_on_are_dropped_with_the_reason() -> None:
    examples = [
        Example((user("q"), assistant("a")), provenance=Provenance("f", 0)),
        Example((user("q" * 100), assistant("a")), provenance=Provenance("f", 1)),
        Example((user("q"), assistant("a", train=False)), provenance=Provenance("f", 2)),
        Example((user("q"), user("q")), provenance=Provenance("f", 3)),
        Example((Message("user", (Part("q"),), train=None),), provenance=Provenance("f", 4)),
    ]
    bundles, dropped = tokenise(examples, chat_format("gemma", _tokenizer()), max_tokens=60)
    assert [row.row for bundle in bundles for row in bundle] == ["f#0"]
    reasons = {example.row: verdict.reason for example, verdict in dropped}
    assert reasons == {"f#1": "too_long", "f#2": "no_label", "f#3": "not_renderable", "f#4": "no_label"}


@pytest.mark.promise4
@pytest.mark.promise5
def test_the_terminator_is_trained() -> None:
    tokenizer = _tokenizer()
    [[row]], _ = tokenise([Example((user("q"), assistant("ab")))], chat_format("gemma", tokenizer), 99)
    trained = [token for token, on in zip(row.ids, row.mask, strict=True) if on]
    assert tokenizer.decode(trained[:-1], place="inside") == "ab"
    assert trained[-1] == tokenizer.special_id("<end_of_turn>")


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_examples_weight_goes_with_the_row(weight: float) -> None:
    [[row]], _ = tokenise([Example((user("q"), assistant("a")), weight=weight)], chat_format("gemma", _tokenizer()), 99)
    assert row.weight == weight


_LONG = Example((user("q" * 100), assistant("answer")), provenance=Provenance("f", 1))


def test_a_row_that_is_too_long_can_be_refused() -> None:
    with pytest.raises(DataError, match=r"f#1: a row is too long: \d+ > 60 tokens") as caught:
        tokenise([_LONG], chat_format("gemma", _tokenizer()), 60, too_long="refuse")
    assert "raise tune.max_tokens" in str(caught.value)


def test_a_row_that_is_too_long_can_lose_its_beginning_but_never_its_answer() -> None:
    chat = chat_format("gemma", _tokenizer())
    [[whole]], _ = tokenise([_LONG], chat, 999)
    [[row]], _ = tokenise([_LONG], chat, 60, too_long="truncate")
    assert len(row.ids) == 60
    assert row.ids[0] == whole.ids[0] == 2
    assert row.ids[1:] == whole.ids[-59:]
    assert row.labelled == whole.labelled
    _, dropped = tokenise([_LONG], chat, row.labelled, too_long="truncate")
    assert [verdict.reason for _, verdict in dropped] == ["too_long"]
