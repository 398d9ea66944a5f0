"""The comparison of number formats: the last quarter of two losses."""

from __future__ import annotations

import pytest

from bench import precision


def test_the_last_quarter_is_compared_in_either_direction() -> None:
    reference = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 2.0, 2.0]
    for factor in (1.01, 0.99):
        row = precision.row("lora", [9.0] * 6 + [2.0 * factor] * 2, reference)
        assert (row.workload, row.metric) == ("bf16 for fp32, lora, 8 steps", "loss apart, %")
        assert (row.ours, row.ratio, row.target) == pytest.approx((1.0, 2.0, 1.0))
    assert precision.last_quarter([3.0, 1.0]) == 1.0


def test_every_step_is_shown() -> None:
    lines = precision.shown("full", [2.0, 1.0, 1.0, 0.99], [2.0, 1.5, 1.25, 1.0]).splitlines()
    assert lines[2] == "   2   1.0000   1.5000"
    assert lines[-1] == "last quarter: bf16 is -1.00 % away from fp32 (0.5 % are allowed)"
