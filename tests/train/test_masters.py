"""Masters: what every forward pass adds is kept in fp32, small updates are not lost, sinks take the large gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.train import lora
from shinan.train.masters import Masters
from shinan.train.settings import LoraSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients
from tests.train.runs import token_rows


class Line(nn.Module):
    """A model of one matrix and one vector, both ones, without an embedding and a head."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2, dtype=dtype))
        self.vector = nn.Parameter(torch.ones(2, dtype=dtype))

    def get_input_embeddings(self) -> None: ...

    def get_output_embeddings(self) -> None: ...

    def add(self, slope: float) -> None:
        """A backward pass that gives every weight the gradient `slope`."""
        (slope * (self.matrix.sum() + self.vector.sum())).backward()  # type: ignore[no-untyped-call]


def _added(model: Any, folder: Path, rows: int = 4) -> Masters:
    """Masters with the gradients of a few rows."""
    masters = Masters(model)
    with Decoder(model, sinks=masters.sinks) as decoder:
        add_gradients(decoder, sft(), token_rows(folder)[:rows], 60, masters)
    return masters


def _expected(model: Any, folder: Path, rows: int = 4) -> dict[str, Tensor]:
    """transformers' own gradients of the mean over all labelled tokens, row by row."""
    bundles = token_rows(folder)[:rows]
    count = sum(row.labelled for bundle in bundles for row in bundle)
    model.zero_grad()
    for bundle in bundles:
        ids = torch.tensor([bundle[0].ids])
        labels = torch.where(torch.tensor([bundle[0].mask], dtype=torch.bool), ids, -100)
        (model(input_ids=ids, labels=labels).loss * bundle[0].labelled / count).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("family", ["tiny_decoder", "tiny_llama"])
def test_fp32_gradients_are_transformers(family: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    masters = _added(load_model(folder, torch.float32), folder)
    expected = _expected(load_model(folder, torch.float32), folder)
    assert masters.weights.keys() == expected.keys()
    for name, gradient in expected.items():
        found = masters.weights[name].grad
        assert found is not None
        assert float((found - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def test_bf16_gradients_reach_the_masters_in_fp32(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    model = fresh(torch.bfloat16)
    masters = _added(model, tiny_decoder)
    expected = _expected(fresh(), tiny_decoder)
    for name, weight in masters.weights.items():
        assert weight.dtype == torch.float32
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        assert float(nn.functional.cosine_similarity(weight.grad.flatten(), expected[name].flatten(), 0)) > 0.98, name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_small_contributions_are_not_lost() -> None:
    """1 + 1024 * 2**-10 is 2; in bf16, whose next number after 1 is 1 + 2**-7, it would stay 1."""
    model = Line(torch.bfloat16)
    masters = Masters(model)
    model.add(1.0)
    for _ in range(1024):
        model.add(2.0**-10)
    for weight in masters.weights.values():
        assert weight.grad is not None
        assert bool((weight.grad == 2).all())


def test_small_updates_are_not_lost() -> None:
    model = Line(torch.bfloat16)
    masters = Masters(model)
    for _ in range(64):  # each is a 32nd of bf16's step after 1
        with torch.no_grad():
            for weight in masters.weights.values():
                weight.add_(2.0**-12)
        masters.publish()
    assert all(bool((parameter == 1 + 2.0**-6).all()) for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_keeps_the_memory(dtype: torch.dtype) -> None:
    model = Line(dtype)
    masters = Masters(model)
    before = {name: weight.grad for name, weight in masters.weights.items()}
    for slope in (1.0, 3.0):
        model.add(slope)
        for name, weight in masters.weights.items():
            assert weight.grad is not None
            assert weight.grad is before[name]
            assert bool((weight.grad == slope).all())
        masters.zero()
    assert not any(grad.any() for grad in before.values() if grad is not None)


def test_sinks_of_tied_and_untied_models(tiny_decoder: Path, tiny_llama: Path) -> None:
    for folder in (tiny_decoder, tiny_llama):
        model: Any = load_model(folder, torch.bfloat16)
        masters = Masters(model)
        large = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        assert masters.sinks.keys() == large
        assert len(large) == (1 if model.config.tie_word_embeddings else 2)
        grads = [weight.grad for weight in masters.weights.values()]
        assert all(any(sink is grad for grad in grads) for sink in masters.sinks.values())
        assert all(sink.dtype == torch.float32 for sink in masters.sinks.values())


def test_frozen_weights_have_no_master(fresh: Callable[..., Any]) -> None:
    masters = Masters(lora.wrap(fresh(), LoraSettings(rank=2), 0))
    assert masters.weights
    assert all("lora_" in name for name in masters.weights)
    assert not masters.sinks


def test_load_sets_masters_exactly_and_publishes_them_rounded() -> None:
    model = Line(torch.bfloat16)
    masters = Masters(model)
    masters.load({"matrix": torch.full((2, 2), 1 / 3), "vector": torch.full((2,), 1 / 7)})
    assert torch.equal(masters.weights["matrix"], torch.full((2, 2), 1 / 3))
    assert torch.equal(model.matrix, torch.full((2, 2), 1 / 3, dtype=torch.bfloat16))
    assert torch.equal(model.vector, torch.full((2,), 1 / 7, dtype=torch.bfloat16))


def test_only_matrices_are_decayed() -> None:
    masters = Masters(Line(torch.float32))
    assert [
        (len(group["params"]), group["params"][0].ndim, group["weight_decay"]) for group in masters.groups(0.1)
    ] == [
        (1, 2, 0.1),
        (1, 1, 0.0),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [True, False])
def test_clip_returns_the_norm_and_limits_it(dtype: torch.dtype, keep: bool) -> None:
    model = Line(dtype)
    masters = Masters(model, keep_gradients=keep)
    model.add(2.0)  # six weights: the norm is sqrt(6 * 4)
    assert masters.clip(1.0) == pytest.approx(24**0.5, rel=1e-6)
    if keep:
        grads = [weight.grad for weight in masters.weights.values() if weight.grad is not None]
        assert float(torch.cat([grad.flatten() for grad in grads]).norm()) == pytest.approx(1, rel=1e-5)
    else:
        assert masters.scale == pytest.approx(24**-0.5, rel=1e-6)
    masters.zero()
    model.add(0.1)
    assert masters.clip(1.0) == pytest.approx(0.06**0.5, rel=1e-2 if dtype is torch.bfloat16 else 1e-6)
    assert masters.scale == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_kept_gradients_only_sinks_have_memory(
    dtype: torch.dtype, fresh: Callable[..., Any], tiny_decoder: Path
) -> None:
    kept = _added(fresh(dtype), tiny_decoder)
    model = fresh(dtype)
    masters = Masters(model, keep_gradients=False)
    with Decoder(model, sinks=masters.sinks) as decoder:
        add_gradients(decoder, sft(), token_rows(tiny_decoder)[:4], 4096, masters)
    sinks = list(masters.sinks.values())
    for tensor in [*model.parameters(), *masters.weights.values()]:
        assert tensor.grad is None or any(tensor.grad is sink for sink in sinks)
    assert masters.clip(1.0) == pytest.approx(kept.clip(1.0), rel=0.02 if dtype is torch.bfloat16 else 1e-5)
