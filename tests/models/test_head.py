"""The fused head against torch's own cross-entropy in float64: values, and the gradients of states and weight."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shinan.models import head as head_module
from shinan.models.head import Head


@dataclass(frozen=True, slots=True)
class Result:
    """A weighted sum, log-probabilities, and the sum's gradients."""

    total: Tensor
    log_probs: Tensor
    states: Tensor
    weight: Tensor


def draw(n: int, dim: int, vocabulary: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, weight, targets and signed weights of the rows, in fp32."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=source)
    weight = torch.randn(vocabulary, dim, generator=source) * scale
    return x, weight, torch.randint(vocabulary, (n,), generator=source), torch.randn(n, generator=source)


def reference(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, softcap: float = 0.0) -> Result:
    """In float64, all logits kept, by autograd."""
    x, weight = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    logits = x @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, targets, reduction="none")
    total = (losses * weights.double()).sum()
    return Result(total.detach(), -losses.detach(), *torch.autograd.grad(total, (x, weight)))


def fused(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, softcap: float = 0.0) -> Result:
    """Ours."""
    x, sink = x.detach().requires_grad_(), torch.zeros(weight.shape)
    total, log_probs = Head(weight, softcap, sink).nll(x, targets, weights)
    (states,) = torch.autograd.grad(total, x)
    return Result(total.detach(), log_probs, states, sink)


def error(ours: Tensor, exact: Tensor) -> float:
    """Norm of the difference, relative to the exact norm."""
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.promise9
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@given(n=st.integers(1, 19), vocabulary=st.integers(2, 40), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_equal_torchs(n: int, vocabulary: int, seed: int, softcap: float) -> None:
    given_ = draw(n, 5, vocabulary, seed)
    exact, ours = reference(*given_, softcap), fused(*given_, softcap)
    torch.testing.assert_close(ours.total.double(), exact.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.log_probs.double(), exact.log_probs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.states.double(), exact.states, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.weight.double(), exact.weight, rtol=1e-5, atol=1e-5)
    assert {ours.log_probs.dtype, ours.total.dtype, ours.weight.dtype} == {torch.float32}
    assert not ours.log_probs.requires_grad


@pytest.mark.promise9
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("rows", [1, 4, 8, 23])
@pytest.mark.parametrize("block", [1, 3, 8])
def test_chunks_and_blocks_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, rows: int, block: int, softcap: float
) -> None:
    given_ = draw(23, 6, 11)
    exact = reference(*given_, softcap)
    monkeypatch.setattr(head_module, "_CHUNK_BYTES", 11 * 4 * rows)
    monkeypatch.setattr(head_module, "_BLOCK", block)
    ours = fused(*given_, softcap)
    for name in ("total", "log_probs", "states", "weight"):
        assert error(getattr(ours, name), getattr(exact, name)) < 1e-6


@pytest.mark.promise9
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_as_on_cuda_it_is_the_same(softcap: float, dtype: torch.dtype) -> None:
    """Compiled code keeps fp32 within a kernel, where torch's own rounds after each line."""
    rows = 5 * torch.randn(19, 300, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(300, (19, 1), generator=torch.Generator().manual_seed(1))
    mine, compiled = (rows.to(dtype, copy=True) for _ in range(2))
    expected = head_module._normal(mine, targets, softcap)
    found = head_module._compiled()(compiled, targets, softcap)
    for one, other in zip((mine, *expected), (compiled, *found), strict=True):
        assert error(other, one.double()) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_the_weights_gradient_is_added_to_what_the_sink_holds() -> None:
    x, weight, targets, weights = draw(4, 6, 11)
    sink = torch.ones_like(weight)
    for _ in range(2):
        Head(weight, sink=sink).nll(x.requires_grad_(), targets, weights)[0].backward()  # type: ignore[no-untyped-call]
    assert error(sink - 1, 2 * reference(x, weight, targets, weights).weight) < 1e-6
    assert x.grad is not None
    assert error(x.grad, 2 * reference(x, weight, targets, weights).states) < 1e-6


def test_without_a_sink_an_upstream_factor_reaches_the_states() -> None:
    x, weight, targets, weights = draw(4, 6, 11)
    (third,) = torch.autograd.grad(Head(weight).nll(x.requires_grad_(), targets, weights)[0] / 3, x)
    assert error(third, reference(x, weight, targets, weights).states / 3) < 1e-6


def test_with_a_sink_an_upstream_factor_is_refused() -> None:
    x, weight, targets, weights = draw(4, 6, 11)
    total, _ = Head(weight, sink=torch.zeros_like(weight)).nll(x.requires_grad_(), targets, weights)
    with pytest.raises(RuntimeError, match="already added: scale the weights, not the loss"):
        (total / 3).backward()  # type: ignore[no-untyped-call]


def test_a_frozen_head_gets_no_gradient() -> None:
    x, weight, targets, weights = draw(4, 6, 11)
    weight.requires_grad_()
    Head(weight).nll(x.requires_grad_(), targets, weights)[0].backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None
    assert x.grad is not None
    assert error(x.grad, reference(x, weight, targets, weights).states) < 1e-6


def test_log_probs_alone_leave_no_gradient_anywhere() -> None:
    x, weight, targets, weights = draw(4, 6, 11)
    sink = torch.zeros_like(weight)
    head = Head(weight, sink=sink)
    log_probs = head.log_probs(x.requires_grad_(), targets)
    with torch.no_grad():
        assert not head.nll(x, targets, weights)[0].requires_grad
    assert not log_probs.requires_grad
    assert not sink.any()
    assert error(log_probs, reference(x, weight, targets, weights).log_probs) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_are_no_loss(dtype: torch.dtype) -> None:
    x, weight, targets, weights = draw(0, 6, 11)
    ours = fused(x.to(dtype), weight.to(dtype), targets, weights)
    assert (ours.total.item(), len(ours.log_probs), ours.states.shape) == (0.0, 0, (0, 6))
    assert not ours.weight.any()


def test_weights_of_zero_are_no_gradient() -> None:
    x, weight, targets, _ = draw(4, 6, 11)
    ours = fused(x, weight, targets, torch.zeros(4))
    assert not ours.total.any()
    assert not ours.states.any()
    assert not ours.weight.any()


def _bf16(kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predictions that are peaked at likely targets, spread out, about even, or that follow Zipf's law."""
    x, weight, targets, weights = draw(
        48, 16, 20_000, scale={"peaked": 1.5, "spread": 0.5, "even": 0.01}.get(kind, 1.0)
    )
    if kind == "peaked":
        x = 0.2 * x + 0.9 * weight[targets]
    if kind == "zipf":  # the k-th token of the vocabulary is k times rarer than the first, and then the context speaks
        weight[:, 0], x[:, 0] = -torch.arange(1, len(weight) + 1).log(), 1.3
        targets = (x @ weight.T).softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]
    return x.bfloat16(), weight.bfloat16(), targets, weights.abs()


@pytest.mark.parametrize("kind", ["peaked", "spread", "even", "zipf"])
def test_in_bf16_what_is_left_out_adds_little_error(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    given_ = _bf16(kind)
    exact, ours = reference(*given_), fused(*given_)
    monkeypatch.setattr(head_module, "_THRESHOLDS", ())
    whole = fused(*given_)
    torch.testing.assert_close(ours.log_probs, whole.log_probs, rtol=0, atol=0)
    for name in ("states", "weight"):
        least = error(getattr(whole, name), getattr(exact, name))
        assert least < 0.02
        assert error(getattr(ours, name), getattr(exact, name)) < 1.2 * least


def test_what_left_out_columns_have_in_common_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare tokens' rows of the weight are much alike: what is lost with them does not cancel out over states."""
    x, weight, targets, weights = _bf16("peaked")
    weight = (weight.float() + 3 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))).bfloat16()
    exact = reference(x, weight, targets, weights).states.sum(0)
    ours = error(fused(x, weight, targets, weights).states.sum(0), exact)
    monkeypatch.setattr(head_module, "_rest", lambda slopes, *_: torch.zeros(len(slopes), 1))
    without = error(fused(x, weight, targets, weights).states.sum(0), exact)
    monkeypatch.setattr(head_module, "_THRESHOLDS", ())
    whole = error(fused(x, weight, targets, weights).states.sum(0), exact)
    assert ours < 1.2 * whole
    assert without > 1.25 * whole


def test_the_rest_is_exact_where_all_rows_leave_out_the_same() -> None:
    draw_ = torch.Generator().manual_seed(0)
    weight = torch.randn(5000, 8, generator=draw_) + 2
    shares = torch.tensor([0.0, 0.001, 0.004, 0.2])
    slopes = shares[:, None] * torch.rand(5000, generator=draw_).softmax(0)
    kept = torch.tensor([3, 4999])
    slopes[:, kept] = torch.tensor([0.9, -1.0])
    left = slopes.double().index_fill(1, kept, 0)
    found = head_module._rest(slopes.bfloat16(), slopes[:, kept].bfloat16(), kept, weight.bfloat16())
    assert error(found, left @ weight.double()) < 0.02


def test_columns_are_left_out_where_few_matter_and_only_there() -> None:
    few = torch.full((4, 1000), 1e-7)
    few[:, 7], few[:, 11] = 0.9999, -1.0
    kept, columns = head_module._substantial(few, few.abs().amax(0))
    assert columns is not None
    assert columns.tolist() == [7, 11]
    torch.testing.assert_close(kept, few[:, [7, 11]])
    even = torch.full((4, 1000), 1e-3)
    assert head_module._substantial(even, even.amax(0))[1] is None
    tail = torch.full((4, 10_000), 2.0**-17)  # together 7.6 % of the probability
    tail[:, 7], tail[:, 11] = 1 - 9998 * 2.0**-17, -1.0
    assert head_module._substantial(tail, tail.abs().amax(0))[1] is None


def _sure(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """States that point at their targets; and the logits as the products in `dtype` round them."""
    _, weight, targets, weights = draw(32, 64, 300)
    weight = weight.to(dtype)
    x = (weight[targets].float() * torch.linspace(0.1, 0.7, 32)[:, None]).to(dtype)
    return x, weight, targets, weights, (x @ weight.T).double()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2.0**-6)])
def test_where_the_model_is_sure_every_row_keeps_its_relative_precision(dtype: torch.dtype, bound: float) -> None:
    x, weight, targets, weights, logits = _sure(dtype)
    log_probs, slopes = logits.log_softmax(-1), logits.softmax(-1)
    slopes.scatter_(1, targets[:, None], 0)
    doubt = slopes.sum(1, keepdim=True)  # 1 - p would be rounded away even in float64
    assert doubt.min() < 1e-14
    states = weights.double()[:, None] * (slopes.scatter(1, targets[:, None], -doubt) @ weight.double())
    ours = fused(x, weight, targets, weights)
    assert max(error(mine, exact) for mine, exact in zip(ours.states, states, strict=True)) < bound
    doubted = (-log_probs.gather(1, targets[:, None]))[:, 0] > 1e-9
    for mine, exact in zip(ours.log_probs[doubted], log_probs.gather(1, targets[:, None])[doubted, 0], strict=True):
        assert error(mine, exact) < bound
