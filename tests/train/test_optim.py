"""Schedules: hand-computed values and their shape."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.train.optim import learning_rate

Schedule = Literal["cosine", "linear", "constant"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0.5] + [1.0] * 9),
        ("cosine", [0.5, 1.0, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
    ],
)
def test_values(schedule: Schedule, expected: list[float]) -> None:
    rates = [learning_rate(step, 10, 1.0, 0.2, schedule) for step in range(10)]
    assert rates == pytest.approx(expected, abs=1e-6)


@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 0.5),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_rates_stay_between_zero_and_the_peak(total: int, warmup: float, schedule: Schedule) -> None:
    rates = [learning_rate(step, total, 3e-4, warmup, schedule) for step in range(total)]
    assert all(0 < rate <= 3e-4 * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(3e-4)
