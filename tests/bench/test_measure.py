"""What every TRL run shares, without TRL: the time limit and the course of its rate."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from bench.peers import measure


def test_the_limit_lets_a_step_end_and_begins_no_other() -> None:
    control = SimpleNamespace(should_training_stop=False)
    limit = measure._Limit(time.time() + 60, 5e-4)
    limit.on_step_end(None, None, control)
    assert not control.should_training_stop
    measure._Limit(time.time() - 1, 5e-4).on_step_end(None, None, control)
    assert control.should_training_stop


def test_the_rate_rises_over_three_steps_and_falls_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [{"lr": 1.0}, {"lr": 1.0}]
    seconds = iter([100.0, 100.0, 110.0, 120.0, 150.0, 200.0, 201.0])
    monkeypatch.setattr("time.time", lambda: next(seconds))
    limit = measure._Limit(200.0, 3e-4)
    seen: list[float] = []
    for step in range(6):
        limit.on_step_begin(
            None, SimpleNamespace(global_step=step), None, optimizer=SimpleNamespace(param_groups=groups)
        )
        assert len({group["lr"] for group in groups}) == 1
        seen.append(groups[0]["lr"])
    assert seen == pytest.approx([1e-4, 1.8e-4, 2.4e-4, 1.5e-4, 0, 0])
