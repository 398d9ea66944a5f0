"""The choice of a number format, with a clock of our own."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from shinan.models import precision
from shinan.models.precision import default_device, probe_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.0, 0.5, torch.bfloat16), (1.0, 0.8, torch.float32), (1.3, 1.0, torch.float32), (1.0, 9.0, torch.float32)],
)
def test_bf16_must_be_worth_its_rounding(
    monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, chosen: torch.dtype
) -> None:
    seconds = {torch.float32: fp32, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: seconds[dtype])
    assert probe_dtype(CPU) == chosen


@pytest.mark.parametrize(("able", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_asked(monkeypatch: pytest.MonkeyPatch, able: bool, chosen: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    assert probe_dtype(torch.device("cuda")) == chosen


def test_the_best_of_five_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [0.001, 5.0, 3.0, 4.0, 9.0, 7.0]  # the first run warms up
    ends = list(itertools.accumulate(itertools.chain.from_iterable((1.0, length) for length in lengths)))
    times = iter(ends)
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(precision, "_SIDE", 4)
    assert precision._seconds(torch.float32, CPU) == pytest.approx(3.0)


def test_the_probe_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_SIDE", 64)
    assert probe_dtype(CPU) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_first_gpu_else_the_cpu(monkeypatch: pytest.MonkeyPatch, there: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device() == torch.device(device)
