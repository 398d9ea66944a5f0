"""The fused head against torch's own cross-entropy in float64, values and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shinan.models import head as head_module
from shinan.models.head import weighted_nll


def _inputs(n: int, dim: int, vocabulary: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=draw, dtype=torch.float64)
    weight = torch.randn(vocabulary, dim, generator=draw, dtype=torch.float64)
    targets = torch.randint(vocabulary, (n,), generator=draw)
    weights = torch.rand(n, generator=draw, dtype=torch.float64)
    return x, weight, targets, weights


def _reference(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, softcap: float) -> Tensor:
    logits = x @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@given(n=st.integers(1, 9), vocabulary=st.integers(2, 40), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_value_and_gradients_equal_torchs(n: int, vocabulary: int, seed: int, softcap: float) -> None:
    x, weight, targets, weights = _inputs(n, 5, vocabulary, seed)
    exact = [t.clone().requires_grad_() for t in (x, weight)]
    loss = _reference(exact[0], exact[1], targets, weights, softcap)
    loss.backward()  # type: ignore[no-untyped-call]
    ours = [t.float().requires_grad_() for t in (x, weight)]
    total, log_probs = weighted_nll(ours[0], ours[1], targets, weights.float(), softcap)
    (total * 1.0).backward()  # type: ignore[no-untyped-call]
    assert total.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    assert -(log_probs * weights.float()).sum().item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, targets, weights = (t.float() if t.is_floating_point() else t for t in _inputs(23, 6, 11, 0))
    whole = weighted_nll(x.requires_grad_(), weight.requires_grad_(), targets, weights)
    expected = torch.autograd.grad(whole[0], (x, weight))
    monkeypatch.setattr(head_module, "_CHUNK_LOGITS", 11 * 4)  # four rows a chunk
    parts = weighted_nll(x, weight, targets, weights)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts[0], (x, weight)), expected)


def test_upstream_factor_reaches_the_gradients() -> None:
    x, weight, targets, weights = (t.float() if t.is_floating_point() else t for t in _inputs(4, 6, 11, 1))
    x.requires_grad_()
    (once,) = torch.autograd.grad(weighted_nll(x, weight, targets, weights)[0], x)
    (third,) = torch.autograd.grad(weighted_nll(x, weight, targets, weights)[0] / 3, x)
    torch.testing.assert_close(third * 3, once)


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    x, weight, targets, weights = (t.float() if t.is_floating_point() else t for t in _inputs(4, 6, 11, 2))
    x.requires_grad_()
    weighted_nll(x, weight, targets, weights)[0].backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None
