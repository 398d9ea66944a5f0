"""Schedules by hand; optimisers against other libraries'; a killed run goes on bit for bit with each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from shinan.models.batch import Batch
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle
from shinan.train.engine import Places, fit
from shinan.train.masters import Masters
from shinan.train.optim import AdamW8bit, Name, _decode, _encode, _values, learning_rate, make_optimiser
from shinan.train.sft import Sft
from tests.train.runs import SETTINGS, token_rows
from tests.train.test_masters import Line

Schedule = Literal["cosine", "linear", "constant"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0.25, 0.5, 0.75] + [1.0] * 9),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
    ],
)
def test_values(schedule: Schedule, expected: list[float]) -> None:
    rates = [learning_rate(step, 12, 1.0, 1 / 3, schedule) for step in range(12)]
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        (24, 0.05, [1 / 3, 2 / 3, 1, 1]),  # a share that is one step
        (2, 0.05, [1 / 2, 1]),
        (1, 0.05, [1]),
        (24, 0.0, [1, 1, 1, 1]),
    ],
)
def test_a_short_run_begins_below_the_full_rate(total: int, warmup: float, expected: list[float]) -> None:
    rates = [learning_rate(step, total, 1.0, warmup, "constant") for step in range(min(total, 4))]
    assert rates == pytest.approx(expected)


@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 0.5),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_rates_stay_between_zero_and_the_peak(total: int, warmup: float, schedule: Schedule) -> None:
    rates = [learning_rate(step, total, 3e-4, warmup, schedule) for step in range(total)]
    assert all(0 < rate <= 3e-4 * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(3e-4)


def _descend(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int) -> tuple[list[Tensor], float]:
    """Fit a two-layer network to a fixed function of fixed data; returns its weights and the last loss.

    The first matrix is large enough to be kept in codes, the rest is not. Inputs differ by a factor of ten, so that
    each block holds gradients of very different sizes.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 128, generator=draw) * torch.logspace(-1, 0, 128)
    target = torch.tanh(x @ torch.randn(128, 64, generator=draw)).sum(1)
    weights = [nn.Parameter(torch.randn(*shape, generator=draw) * 0.1) for shape in ((64, 128), (64,), (1, 64))]
    optimiser = make(weights)
    loss = torch.zeros(())
    for _ in range(steps):
        hidden, bias, out = weights
        loss = ((torch.tanh(x @ hidden.T + bias) @ out.T)[:, 0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return [weight.detach() for weight in weights], float(loss.detach())


def _adamw8bit(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    return AdamW8bit([{"params": weights, "lr": 0.01, "weight_decay": 0.1}])


def test_adamw8bit_follows_adamw() -> None:
    start, _ = _descend(_adamw8bit, 0)
    exact, loss = _descend(lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1), 50)
    found, found_loss = _descend(_adamw8bit, 50)
    assert loss < 1
    assert found_loss == pytest.approx(loss, rel=0.05)
    for weight, expected, before in zip(found, exact, start, strict=True):
        assert float((weight - expected).norm()) < 0.1 * float((expected - before).norm())


def test_adamw8bit_is_adamw_for_small_weights() -> None:
    weights = [nn.Parameter(torch.ones(15, 17)), nn.Parameter(torch.ones(4095 + 256))]
    exact = [nn.Parameter(weight.detach().clone()) for weight in weights]
    found, peer = _adamw8bit(weights), torch.optim.AdamW(exact, lr=0.01, weight_decay=0.1)
    for step in range(5):
        for weight, other in zip(weights, exact, strict=True):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            other.grad = weight.grad.clone()
        found.step()
        peer.step()
    for weight, other in zip(weights, exact, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=0)


def test_adamw8bit_does_not_jump_where_a_gradient_was_small() -> None:
    """A second moment of 1e-10 beside one of 1 must not become 0: m / (sqrt(0) + eps) would be 100 rates a step."""
    weight = nn.Parameter(torch.zeros(4096))
    exact = nn.Parameter(torch.zeros(4096))
    found, peer = _adamw8bit([weight]), torch.optim.AdamW([exact], lr=0.01, weight_decay=0.1)
    for step in range(10):
        weight.grad = torch.zeros(4096)
        weight.grad[:2] = torch.tensor([1.0, 1e-5 if step == 0 else 0.0])
        exact.grad = weight.grad.clone()
        found.step()
        peer.step()
    assert 0.5 < float((weight / exact)[1].detach()) < 2
    assert not weight[2:].any()


def test_adamw8bit_keeps_two_bytes_a_weight() -> None:
    weight = nn.Parameter(torch.ones(64, 512))
    optimiser = _adamw8bit([weight])
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    size = sum(tensor.numel() * tensor.element_size() for tensor in optimiser.state[weight].values())
    assert size <= 2.04 * weight.numel()


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_papers(signed: bool) -> None:
    """Dynamic quantisation (arXiv 2110.02861) by hand: the largest values, the smallest, how many a decade has."""
    values = _values(signed, torch.device("cpu"))
    assert len(values) == 256
    assert values.diff().min() > 0
    assert values[-1] == 1
    top = 64 if signed else 128
    assert values[-2].item() == pytest.approx(1 - 0.45 / top)
    assert values[values > 0][0].item() == pytest.approx(0.55e-6 if signed else 0.325e-6)
    for decade in range(7):
        inside = (values > 10.0 ** -(decade + 1)) & (values < 10.0**-decade)
        assert int(inside.sum()) == top // 2**decade
    assert torch.equal(values[values < 0].flip(0), -values[values > 0][:-1]) if signed else values[0] == 0


@given(seed=st.integers(0, 1000), decades=st.floats(0, 6), signed=st.booleans())
def test_values_get_their_nearest_code(seed: int, decades: float, signed: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(512, generator=draw) * 10 ** (-decades * torch.rand(512, generator=draw))
    x = x if signed else x.abs()
    codes, scales = torch.empty(512, dtype=torch.uint8), torch.empty(2)
    _encode(x, codes, scales, signed)
    assert torch.equal(scales, x.view(2, 256).abs().amax(1))
    share = x / scales.repeat_interleave(256)
    nearest = (share[:, None] - _values(signed, x.device)).abs().amin(1)
    found = (share - _decode(codes, torch.ones(2), signed)).abs()
    assert bool((found <= 1.15 * nearest + 1e-7).all())
    torch.testing.assert_close(_decode(codes, scales, signed), x, rtol=0, atol=0.008 * float(scales.max()))


def test_a_block_of_zeros_stays_zero() -> None:
    codes, scales = torch.empty(256, dtype=torch.uint8), torch.empty(1)
    _encode(torch.zeros(256), codes, scales, True)
    assert not _decode(codes, scales, True).any()


def test_adafactor_is_transformers() -> None:
    """With the rate as the relative step, and below 1 / sqrt(step), which limits only torch's."""
    peer = partial(_peer_adafactor, lr=0.05, scale_parameter=True, relative_step=False, warmup_init=False)
    start, _ = _descend(peer, 0)
    expected, loss = _descend(peer, 20)

    def ours(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        masters = Masters(Line(torch.float32))
        masters.weights = {str(index): weight for index, weight in enumerate(weights)}
        optimiser = make_optimiser("adafactor", masters, 0.0)
        for group in optimiser.param_groups:
            group["lr"] = 0.05
        return optimiser

    found, found_loss = _descend(ours, 20)
    assert found_loss == pytest.approx(loss, rel=1e-3)
    for weight, other, before in zip(found, expected, start, strict=True):
        assert float((weight - other).norm()) < 1e-3 * float((other - before).norm())


def _peer_adafactor(weights: list[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    optimiser: torch.optim.Optimizer = Adafactor(weights, **settings)
    return optimiser


class _Stopping(Sft):
    """Supervised fine-tuning that is interrupted in a forward pass."""

    def __init__(self, passes: int) -> None:
        self.left = passes

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().loss(decoder, bundles, batch, count)


@pytest.mark.parametrize("name", get_args(Name))
def test_an_interrupted_run_goes_on_bit_for_bit(name: Name, tiny_decoder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimiser": name, "epochs": 1.0, "validation": 0.0, "clip": 0.5})
    rows = token_rows(tiny_decoder)

    def run(out: Path, passes: int) -> dict[str, Tensor]:
        model = load_model(tiny_decoder, torch.bfloat16)
        places = Places(out / "states", out / "metrics.jsonl", out / "plan.json")
        out.mkdir(exist_ok=True)
        fit(model, _Stopping(passes), rows, settings, key="toy", seed=0, places=places)
        return load_file(out / "states" / "step-6" / "tensors.safetensors")

    whole = run(tmp_path / "whole", -1)
    for passes in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", passes)
    found = run(tmp_path / "stopped", -1)
    assert found.keys() == whole.keys()
    for part, tensor in whole.items():
        assert torch.equal(found[part], tensor), part
