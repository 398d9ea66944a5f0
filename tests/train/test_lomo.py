"""LOMO: plain gradient descent on clipped gradients, without their memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shinan.core.errors import TrainingError
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle
from shinan.train.lomo import Lomo
from shinan.train.masters import Masters
from shinan.train.sft import sft
from shinan.train.step import add_gradients
from tests.train.runs import SETTINGS, token_rows, train
from tests.train.test_masters import Line


def _lomo(model: Any, rows: Sequence[Bundle], *, limit: float, steps: int = 1, checkpoint: bool = False) -> Masters:
    """Take LOMO steps at rate 0.5, as the engine does."""
    masters = Masters(model, keep_gradients=False)
    optimiser = Lomo(masters, weight_decay=0.0)
    for group in optimiser.param_groups:
        group["lr"] = 0.5
    with Decoder(model, sinks=masters.sinks) as decoder:
        decoder.arrange(checkpoint=checkpoint, compiled=False)
        for _ in range(steps):
            add_gradients(decoder, sft(), rows, 4096, masters)
            masters.clip(limit)
            optimiser.step(lambda: add_gradients(decoder, sft(), rows, 4096, masters))
            masters.zero()
            masters.publish()
    return masters


def _sgd(model: Any, rows: Sequence[Bundle], *, limit: float, steps: int = 1) -> Masters:
    """The same with torch's own gradient clipping and descent."""
    masters = Masters(model)
    optimiser = torch.optim.SGD(masters.weights.values(), lr=0.5)
    with Decoder(model, sinks=masters.sinks) as decoder:
        for _ in range(steps):
            add_gradients(decoder, sft(), rows, 4096, masters)
            torch.nn.utils.clip_grad_norm_(masters.weights.values(), limit)
            optimiser.step()
            masters.zero()
            masters.publish()
    return masters


def _assert_same(found: Masters, expected: Masters, start: dict[str, Tensor], rel: float) -> None:
    """Compare how far the weights have moved."""
    for name, weight in expected.weights.items():
        moved = weight.detach() - start[name]
        assert moved.any(), name
        assert float((found.weights[name].detach() - weight.detach()).norm()) <= rel * float(moved.norm()) + 1e-9, name


@pytest.mark.parametrize("family", ["tiny_decoder", "tiny_llama"])
@pytest.mark.parametrize("limit", [0.01, 1e9])
def test_a_step_is_descent_on_the_clipped_gradients(family: str, limit: float, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    rows = token_rows(folder)[:5]
    start = {name: weight.detach() for name, weight in load_model(folder, torch.float32).named_parameters()}
    expected = _sgd(load_model(folder, torch.float32), rows, limit=limit)
    for checkpoint in (False, True):
        found = _lomo(load_model(folder, torch.float32).train(), rows, limit=limit, checkpoint=checkpoint)
        for name, weight in expected.weights.items():
            torch.testing.assert_close(found.weights[name], weight, rtol=1e-6, atol=1e-8)
        _assert_same(found, expected, start, 1e-4)


def test_many_bf16_steps_are_those_of_fp32_masters(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    rows = token_rows(tiny_decoder)[:5]
    start = {name: weight.detach().float() for name, weight in fresh(torch.bfloat16).named_parameters()}
    expected = _sgd(fresh(torch.bfloat16), rows, limit=0.01, steps=3)
    _assert_same(_lomo(fresh(torch.bfloat16), rows, limit=0.01, steps=3), expected, start, 0.02)


def test_decay_is_decoupled_and_spares_vectors() -> None:
    model = Line(torch.float32)
    masters = Masters(model, keep_gradients=False)
    optimiser = Lomo(masters, weight_decay=0.1)
    for group in optimiser.param_groups:
        group["lr"] = 0.5
    optimiser.step(lambda: model.add(0.25))
    torch.testing.assert_close(model.matrix.detach(), torch.full((2, 2), 1 * (1 - 0.05) - 0.125))
    torch.testing.assert_close(model.vector.detach(), torch.full((2,), 1 - 0.125))


def test_no_gradient_outlives_the_step_and_there_is_no_state(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    model = fresh(torch.bfloat16)
    masters = _lomo(model, token_rows(tiny_decoder)[:3], limit=1.0)
    sinks = list(masters.sinks.values())
    for tensor in [*model.parameters(), *masters.weights.values()]:
        assert tensor.grad is None or any(tensor.grad is sink for sink in sinks)
    assert masters.consume is None


def test_training_lowers_the_loss(tiny_decoder: Path, tmp_path: Path) -> None:
    train(tiny_decoder, tmp_path, SETTINGS.model_copy(update={"optimiser": "lomo", "learning_rate": 1.0}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_a_step_of_several_forward_passes_is_refused(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    model = fresh()
    masters = Masters(model, keep_gradients=False)
    with (
        Decoder(model, sinks=masters.sinks) as decoder,
        pytest.raises(TrainingError, match=r"one forward pass, and this one is \d+ of up to 20 tokens") as caught,
    ):
        add_gradients(decoder, sft(), token_rows(tiny_decoder)[:5], 20, masters)
    assert "raise tune.micro_tokens or lower tune.batch_size" in str(caught.value)


def test_too_few_tokens_for_a_step_are_refused_before_the_first(tiny_decoder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimiser": "lomo", "micro_tokens": 20})
    with pytest.raises(TrainingError, match=r"a step in one forward pass: \d+ tokens, and tune.micro_tokens") as caught:
        train(tiny_decoder, tmp_path, settings)
    assert "lower tune.batch_size" in str(caught.value)
    assert not (tmp_path / "plan.json").exists()
