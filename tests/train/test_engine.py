"""The engine: the loss is the right one, the layout does not matter, a killed run continues bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shinan.core.errors import TrainingError
from shinan.models.batch import Batch, TokenRow, pad
from shinan.train import lora
from shinan.train.engine import Places, fit
from shinan.train.objective import LossSum
from shinan.train.optim import Masters
from shinan.train.settings import LoraSettings, TuneSettings
from shinan.train.sft import sft
from tests.train.runs import SETTINGS, token_rows, train


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _gradients(model: Any, batches: list[list[TokenRow]]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        part = sft().loss(model, pad(batch))
        part.total.backward()  # type: ignore[no-untyped-call]
        total += float(part.total.detach())
    return total, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_loss_is_transformers_loss(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    model = fresh()
    for row in token_rows(tiny_decoder)[:3]:
        part = sft().loss(model, pad([row]))
        ids = torch.tensor([row.ids])
        labels = torch.where(torch.tensor([row.mask]), ids, -100)
        expected = model(input_ids=ids, labels=labels).loss
        assert float(part.total.detach()) / part.weight == pytest.approx(float(expected.detach()), rel=1e-5)


def test_padding_and_accumulation_do_not_change_loss_or_gradient(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    model = fresh()
    rows = token_rows(tiny_decoder)[:6]
    alone, exact = _gradients(model, [[row] for row in rows])
    together, padded = _gradients(model, [rows])
    halves, accumulated = _gradients(model, [rows[:2], rows[2:]])
    assert together == pytest.approx(alone, rel=1e-5)
    assert halves == pytest.approx(alone, rel=1e-5)
    for name, gradient in exact.items():
        scale = float(gradient.abs().max()) or 1.0
        for other in (padded, accumulated):
            assert float((other[name] - gradient).abs().max()) <= 1e-5 * scale, name


def test_forward_passes_of_any_size_give_the_same_weights(tiny_decoder: Path, tmp_path: Path) -> None:
    results = []
    for capacity in (60, 4096):
        out = tmp_path / str(capacity)
        out.mkdir()
        train(tiny_decoder, out, SETTINGS.model_copy(update={"micro_tokens": capacity, "epochs": 0.5}))
        results.append(load_file(out / "last.safetensors"))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-3, atol=1e-5)


def test_training_lowers_the_loss_and_keeps_the_best(tiny_decoder: Path, tmp_path: Path) -> None:
    fitted = train(tiny_decoder, tmp_path)
    lines = _metrics(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    held = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert losses[-1] < 0.7 * losses[0]
    assert fitted.facts["best_validation_loss"] == min(held.values())
    assert fitted.facts["best_step"] == min(held, key=lambda step: held[step])
    assert fitted.facts["steps"] == len(losses) == 10
    assert fitted.facts["examples"] + fitted.facts["validation_examples"] == 24


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_and_resumed_is_bit_identical(tiny_decoder: Path, tmp_path: Path, seed: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    _run(tiny_decoder, whole)
    kills = 0
    for attempt in range(3):
        process = _start(tiny_decoder, killed)
        _wait_for_lines(process, killed / "metrics.jsonl", 3 + 4 * attempt + seed)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills, "every attempt ended before it could be killed"
    _run(tiny_decoder, killed)
    assert (killed / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert _metrics(killed) == _metrics(whole)


def test_an_interrupt_saves_and_the_run_goes_on(tiny_decoder: Path, tmp_path: Path) -> None:
    process = _start(tiny_decoder, tmp_path)
    _wait_for_lines(process, tmp_path / "metrics.jsonl", 4)
    process.send_signal(signal.SIGINT)
    process.wait()
    done = max(line["step"] for line in _metrics(tmp_path) if "loss" in line)
    assert (tmp_path / "states" / f"step-{done}" / "state.json").exists()


def _start(model: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train.runs", str(model), str(out)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def _run(model: Path, out: Path) -> None:
    assert _start(model, out).wait() == 0


def _wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)


def test_a_damaged_checkpoint_is_named(tiny_decoder: Path, tmp_path: Path) -> None:
    train(tiny_decoder, tmp_path)
    path = tmp_path / "states" / "step-10" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"step-10.*damaged"):
        train(tiny_decoder, tmp_path)


def test_a_checkpoint_of_another_run_is_not_taken(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path
) -> None:
    train(tiny_decoder, tmp_path)
    places = Places(tmp_path / "states", tmp_path / "metrics.jsonl")
    settings = SETTINGS.model_copy(update={"epochs": 0.2})
    fit(fresh(), sft(), token_rows(tiny_decoder), settings, key="another", seed=0, places=places)
    assert max(line["step"] for line in _metrics(tmp_path)) == 1


class _Growing:
    """An objective whose loss grows with every forward pass."""

    def __init__(self) -> None:
        self.factor = 1.0

    def loss(self, model: Any, batch: Batch) -> LossSum:
        self.factor *= 1.1
        part = sft().loss(model, batch)
        return LossSum(part.total * self.factor, part.weight)


def test_an_exploding_loss_stops_with_a_sentence(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 1e-9, "validation": 0.0})
    places = Places(tmp_path / "states", tmp_path / "metrics.jsonl")
    rows = token_rows(tiny_decoder)
    with pytest.raises(TrainingError, match="the loss explodes") as caught:
        fit(fresh(), _Growing(), rows, settings, key="k", seed=0, places=places)
    assert "lower tune.learning_rate" in str(caught.value)


def test_not_a_number_stops_at_once(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    places = Places(tmp_path / "states", tmp_path / "metrics.jsonl")
    settings = SETTINGS.model_copy(update={"validation": 0.0})
    rows = token_rows(tiny_decoder)
    with pytest.raises(TrainingError, match="step 1: the loss or its gradient is not a number"):
        fit(model, sft(), rows, settings, key="k", seed=0, places=places)


def test_no_rows_is_a_sentence(fresh: Callable[..., Any], tmp_path: Path) -> None:
    places = Places(tmp_path / "states", tmp_path / "metrics.jsonl")
    with pytest.raises(TrainingError, match="no rows to train on"):
        fit(fresh(), sft(), [], SETTINGS, key="k", seed=0, places=places)


def test_bf16_sums_small_updates_in_fp32(fresh: Callable[..., Any]) -> None:
    model = fresh(torch.bfloat16)
    masters = Masters(model)
    name, weight = next((n, w) for n, w in model.named_parameters() if w.ndim == 2)
    before = weight.detach().clone()
    step = 1e-4 * before.float().abs()
    for _ in range(100):  # each step is far below bf16's resolution of about 4e-3
        with torch.no_grad():
            masters.weights[name].add_(step)
        masters.publish()
    moved = (weight.detach().float() - before.float()).abs().mean() / before.float().abs().mean()
    assert float(moved) == pytest.approx(0.01, rel=0.2)


def test_gradients_reach_the_masters_in_fp32(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    exact_model, model = fresh(), fresh(torch.bfloat16)
    masters = Masters(model)
    rows = token_rows(tiny_decoder)[:4]
    _, exact = _gradients(exact_model, [rows])
    for row in rows:
        sft().loss(model, pad([row])).total.backward()  # type: ignore[no-untyped-call]
    for name, weight in masters.weights.items():
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        similarity = torch.nn.functional.cosine_similarity(weight.grad.flatten(), exact[name].flatten(), dim=0)
        assert float(similarity) > 0.98, name


def test_lora_trains_only_adapters_and_merges_exactly(fresh: Callable[..., Any], tiny_decoder: Path) -> None:
    plain = fresh()
    model = lora.wrap(fresh(), LoraSettings(rank=4), seed=0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([token_rows(tiny_decoder)[0].ids])
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        merged = lora.merge(model)
        assert type(merged) is type(plain)
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain(input_ids=ids).logits, adapted, atol=1e-2)


def test_lora_starts_the_same_for_the_same_seed(fresh: Callable[..., Any]) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        model = lora.wrap(fresh(), LoraSettings(rank=4), seed)
        return {name: weight for name, weight in model.named_parameters() if "lora_A" in name}

    torch.manual_seed(99)
    first, again, other = start(3), start(3), start(4)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in first.items())


def test_lora_settings_without_lora_are_refused() -> None:
    with pytest.raises(ValueError, match="no effect"):
        TuneSettings(method="full", lora=LoraSettings(rank=4))


def test_the_default_rate_is_the_methods() -> None:
    assert TuneSettings().learning_rate == 5e-4
    assert TuneSettings(method="full").learning_rate == 5e-5
    assert TuneSettings(method="full", learning_rate=1e-5).learning_rate == 1e-5
