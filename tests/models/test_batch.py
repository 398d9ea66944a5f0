"""Padding and supervision against a naive reference that looks at one token at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.models.batch import Batch, TokenRow, pad


@st.composite
def token_rows(draw: st.DrawFn) -> TokenRow:
    ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=20))
    mask = [False, *draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1))]
    return TokenRow(tuple(ids), tuple(mask), draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])), draw(st.text(max_size=3)))


def supervised(batch: Batch) -> list[tuple[int, int, int, float]]:
    """(row, index of the predicted token, the token, weight) of each supervised position."""
    width = batch.ids.shape[1]
    found = zip(batch.positions, batch.targets, batch.examples, batch.weights, strict=True)
    return [(int(e), int(p) - int(e) * width + 1, int(t), float(w)) for p, t, e, w in found]


@given(st.lists(token_rows(), min_size=1, max_size=6))
@settings(deadline=None)
def test_every_label_is_supervised_once_and_nothing_else(rows: list[TokenRow]) -> None:
    batch = pad(rows)
    naive = [(r, i, row.ids[i], row.weight) for r, row in enumerate(rows) for i in range(len(row.ids)) if row.mask[i]]
    assert supervised(batch) == naive
    assert sum(row.labelled for row in rows) == len(naive) == len(batch.weights)


@given(st.lists(token_rows(), min_size=1, max_size=6))
@settings(deadline=None)
def test_tokens_stand_at_the_left_and_padding_is_not_attended_to(rows: list[TokenRow]) -> None:
    batch = pad(rows)
    longest = max(len(row.ids) for row in rows)
    width = batch.ids.shape[1]
    assert batch.ids.shape == batch.attention.shape == (len(rows), width)
    assert width % 8 == 0
    assert longest <= width < longest + 8
    for row, ids, attention in zip(rows, batch.ids.tolist(), batch.attention.tolist(), strict=True):
        n = len(row.ids)
        assert ids == [*row.ids, *[0] * (width - n)]
        assert attention == [1] * n + [0] * (width - n)


def test_two_rows_by_hand() -> None:
    rows = [
        TokenRow((2, 11, 12, 13), (False, False, True, True), 1.0, "a#0"),
        TokenRow((2, 21), (False, True), 0.5, "a#1"),
    ]
    batch = pad(rows)
    assert batch.ids.tolist() == [[2, 11, 12, 13, 0, 0, 0, 0], [2, 21, 0, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 8]  # what stands before 12, 13 and 21
    assert batch.targets.tolist() == [12, 13, 21]
    assert batch.weights.tolist() == [1.0, 1.0, 0.5]
    assert batch.examples.tolist() == [0, 0, 1]


def test_types_hold_even_where_nothing_is_trained() -> None:
    batch = pad([TokenRow((1, 2), (False, False), 1.0, "a#0")])
    whole = [batch.ids, batch.attention, batch.positions, batch.targets, batch.examples]
    assert {tensor.dtype for tensor in whole} == {torch.int64}
    assert (batch.weights.dtype, len(batch.positions)) == (torch.float32, 0)


def test_a_batch_goes_to_a_device_as_a_whole() -> None:
    batch = pad([TokenRow((1, 2), (False, True), 1.0, "a#0")]).to(torch.device("meta"))
    names = ("ids", "attention", "positions", "targets", "weights", "examples")
    assert {getattr(batch, name).device.type for name in names} == {"meta"}


@pytest.mark.parametrize("mask", [(True, True), (False,), (False, True, True)])
def test_a_mask_that_cannot_be_is_our_bug(mask: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match=r"a#0: 2 ids, . mask values"):
        TokenRow((1, 2), mask, 1.0, "a#0")
