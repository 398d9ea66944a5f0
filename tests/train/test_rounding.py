"""Rounding to bf16: to a neighbour, right on average, always the same, and only where bf16 is what is asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shinan.train.rounding import round_into

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def rounded(weights: Tensor, name: str = "a") -> Tensor:
    copy = torch.empty_like(weights, dtype=torch.bfloat16)
    round_into(copy, weights, name)
    return copy


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_a_value_becomes_one_of_its_two_neighbours(values: list[float]) -> None:
    for value, found in zip(values, rounded(torch.tensor(values)).double().tolist(), strict=True):
        if value == 0:
            assert found == 0
            continue
        step = 2.0 ** (max(math.frexp(value)[1], -125) - 8)  # bf16 has eight bits from the first one on
        assert abs(found - value) < step
        assert found % step == 0


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_a_number_of_bf16_stays_what_it_is(values: list[float]) -> None:
    exact = torch.tensor(values).bfloat16()
    assert torch.equal(rounded(exact.float()), exact)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=50))
def test_a_weight_that_rises_has_no_copy_that_falls(pairs: list[tuple[float, float]]) -> None:
    low, high = (torch.tensor([part(pair) for pair in pairs]) for part in (min, max))
    assert bool((rounded(low) <= rounded(high)).all())


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_right_on_average(share: float, sign: int) -> None:
    """Nearest would leave all values at 1, or move all to the next number, 1 + 2**-7."""
    shape = 1500, 1000  # of more values than there are thresholds
    found = rounded(torch.full(shape, sign * (1 + share * 2.0**-7))).float()
    assert set(found.flatten().tolist()) == {sign * 1.0, sign * (1 + 2.0**-7)}
    assert float((found.abs() - 1).mean() * 2.0**7) == pytest.approx(share, abs=0.003)
    rows, columns = (found.abs() - 1).mean(1) * 2.0**7, (found.abs() - 1).mean(0) * 2.0**7
    assert float((rows - share).abs().max()) < 0.1  # no row or column has all of them
    assert float((columns - share).abs().max()) < 0.1


def test_the_same_is_drawn_each_time_and_something_else_for_another_weight() -> None:
    weights = torch.full((64, 64), 1 + 2.0**-8)
    assert torch.equal(rounded(weights), rounded(weights))
    assert not torch.equal(rounded(weights), rounded(weights, "b"))


def test_a_turned_matrix_and_one_of_no_rows() -> None:
    weights = torch.full((3, 5), 1 + 2.0**-8)
    copy = torch.empty(5, 3, dtype=torch.bfloat16).T
    round_into(copy, weights, "a")
    assert torch.equal(copy, rounded(weights))
    assert rounded(torch.empty(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(7,), (2200, 1000), (5, 30, 20)])
def test_parts_are_rounded_as_in_the_whole(shape: tuple[int, ...]) -> None:
    """As ranks hold them: rows of a matrix (of more values than there are thresholds), a vector's numbers, experts."""
    weights = torch.full(shape, 1 + 2.0**-8)
    copy = torch.empty(shape, dtype=torch.bfloat16)
    for first in range(0, len(copy), size := -(-len(copy) // 3)):
        round_into(copy[first : first + size], weights[first : first + size], "a", first)
    assert torch.equal(copy, rounded(weights))


def test_weights_may_lie_on_another_device() -> None:
    """As saved ones do that are put back into a model on a GPU; this device holds no numbers."""
    copy = torch.empty(4, 4, dtype=torch.bfloat16, device="meta")
    round_into(copy, torch.zeros(4, 4), "a")


def test_a_single_number_and_many_matrices_in_one() -> None:
    assert float(rounded(torch.tensor(1 + 2.0**-8))) in (1.0, 1 + 2.0**-7)
    found = rounded(torch.full((3, 2000, 1000), 1 + 2.0**-8)).float()
    assert (found - 1).mean((1, 2)).tolist() == pytest.approx([2.0**-8] * 3, rel=0.01)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_other_formats_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    weights = torch.tensor([1 / 3, -1 / 7])
    copy = torch.empty(2, dtype=dtype)
    round_into(copy, weights, "a")
    assert torch.equal(copy, weights.to(dtype))


def test_what_is_no_number_stays_so() -> None:
    assert rounded(torch.tensor([math.inf, -math.inf])).tolist() == [math.inf, -math.inf]
    assert bool(rounded(torch.tensor([math.nan])).isnan().all())
