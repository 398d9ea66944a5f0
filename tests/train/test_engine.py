"""The engine: the loss is the right one, the layout does not matter, a killed run continues bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shinan.core.errors import TrainingError
from shinan.models.batch import Batch
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, computed
from shinan.train import lora, methods, schedule
from shinan.train.engine import Places, fit
from shinan.train.schedule import Schedule, record
from shinan.train.settings import LoraSettings, TuneSettings
from shinan.train.sft import Sft, sft
from tests.train.runs import SETTINGS, metrics, token_rows, train

METHOD: Mapping[str, dict[str, Any]] = {
    "full": {"epochs": 1},
    "lora": {"epochs": 1, "method": "lora", "lora": LoraSettings(rank=4)},
}


def _places(folder: Path) -> Places:
    return Places(folder / "states", folder / "metrics.jsonl", folder / "plan.json")


def _alike(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Adam turns the rounding of a gradient near zero into a step of either sign: single elements may differ."""
    for name, weight in expected.items():
        assert float((ours[name] - weight).detach().norm()) <= 1e-3 * float(weight.detach().norm()), name


@pytest.mark.parametrize("method", ["full", "lora"])
def test_in_bf16_the_weights_that_are_kept_are_those_that_were_computed_with(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path, method: str
) -> None:
    model = methods.wrap(fresh(torch.bfloat16), settings := SETTINGS.model_copy(update=METHOD[method]), 0)
    start = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    rows, places = token_rows(tiny_decoder), _places(tmp_path)
    fitted = fit(model, sft(), rows, settings, key="toy", seed=0, places=places)
    computed_with = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    assert not any(torch.equal(weight, start[name]) for name, weight in computed_with.items() if weight.ndim > 1)
    fitted.restore("last")
    for name, weight in model.named_parameters():
        assert not weight.requires_grad or torch.equal(weight, computed_with[name]), name


@pytest.mark.promise9
def test_forward_passes_of_any_size_give_the_same_weights(tiny_decoder: Path, tmp_path: Path) -> None:
    results = []
    for capacity in (60, 4096):
        out = tmp_path / str(capacity)
        out.mkdir()
        train(tiny_decoder, out, SETTINGS.model_copy(update={"micro_tokens": capacity, "epochs": 0.5}))
        results.append(load_file(out / "last.safetensors"))
    _alike(results[0], results[1])


def test_training_lowers_the_loss_and_keeps_the_best(tiny_decoder: Path, tmp_path: Path) -> None:
    fitted = train(tiny_decoder, tmp_path)
    lines = metrics(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    held = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert losses[-1] < 0.7 * losses[0]
    assert fitted.facts["best_validation_loss"] == min(held.values())
    assert fitted.facts["best_step"] == min(held, key=lambda step: held[step])
    assert fitted.facts["steps"] == len(losses) == 10
    assert fitted.facts["examples"] + fitted.facts["validation_examples"] == 24
    kept = sorted(int(path.stem.partition("-")[2]) for path in (tmp_path / "states").glob("best-*"))
    assert fitted.facts["best_step"] in kept
    assert len(kept) <= 2  # what the two checkpoints name, of some eight that were the best in their time


@pytest.mark.promise3
def test_an_interrupt_saves_and_the_run_goes_on(tiny_decoder: Path, tmp_path: Path) -> None:
    process = _start(tiny_decoder, tmp_path)
    _wait_for_lines(process, tmp_path / "metrics.jsonl", 4)
    process.send_signal(signal.SIGINT)
    process.wait()
    done = max(line["step"] for line in metrics(tmp_path) if "loss" in line)
    assert (tmp_path / "states" / f"step-{done}" / "state.json").exists()


def _start(model: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train.runs", str(model), str(out)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def _wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.promise3
@pytest.mark.promise10
@pytest.mark.parametrize("damage", [_flip, _cut])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_sound(
    tiny_decoder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    train(tiny_decoder, tmp_path)
    whole = (tmp_path / "last.safetensors").read_bytes()
    path = tmp_path / "states" / "step-10" / "tensors.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match=r"step-10.*damaged") as caught:
        train(tiny_decoder, tmp_path)
    assert "delete it and run again" in str(caught.value)
    shutil.rmtree(path.parent)
    train(tiny_decoder, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == whole


@pytest.mark.promise3
@pytest.mark.promise10
def test_a_checkpoint_that_was_never_finished_is_passed_over(tiny_decoder: Path, tmp_path: Path) -> None:
    train(tiny_decoder, tmp_path)
    whole = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "states" / "step-10" / "state.json").unlink()
    train(tiny_decoder, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == whole


@pytest.mark.promise3
@pytest.mark.promise10
def test_another_torch_is_told_and_the_run_goes_on(
    tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_decoder, tmp_path)
    path = tmp_path / "states" / "step-10" / "state.json"
    assert "note:" not in capsys.readouterr().err
    path.write_text(path.read_text("utf-8").replace(torch.__version__, "1.0"), "utf-8")
    train(tiny_decoder, tmp_path)
    assert f"note: step-10 was written with torch 1.0, now {torch.__version__}" in capsys.readouterr().err


@pytest.mark.promise3
def test_a_checkpoint_of_another_run_is_not_taken(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path
) -> None:
    train(tiny_decoder, tmp_path)
    places = _places(tmp_path)
    settings = SETTINGS.model_copy(update={"epochs": 0.2})
    fit(fresh(), sft(), token_rows(tiny_decoder), settings, key="another", seed=0, places=places)
    assert max(line["step"] for line in metrics(tmp_path)) == 1


@pytest.mark.promise3
def test_going_back_to_earlier_settings_is_the_same_run(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path
) -> None:
    """What was trained in between leaves nothing: no later step, no best weights, no line of the metrics."""

    def tuned(folder: Path, key: str, rate: float, epochs: float) -> tuple[dict[str, Tensor], list[Any]]:
        settings = SETTINGS.model_copy(update={"learning_rate": rate, "epochs": epochs})
        rows, model = token_rows(tiny_decoder), fresh()
        fit(model, sft(), rows, settings, key=key, seed=0, places=_places(folder)).restore("best")
        return {name: weight.clone() for name, weight in model.named_parameters()}, metrics(folder)

    for folder in (tmp_path / "whole", tmp_path / "mixed"):
        folder.mkdir()
    whole = tuned(tmp_path / "whole", "a", 5e-3, 1)
    tuned(tmp_path / "mixed", "a", 5e-3, 1)
    tuned(tmp_path / "mixed", "b", 1e-3, 0.8)
    weights, lines = tuned(tmp_path / "mixed", "a", 5e-3, 1)
    assert lines == whole[1]
    assert all(torch.equal(weights[name], weight) for name, weight in whole[0].items())


@pytest.mark.promise3
def test_a_longer_run_with_other_settings_takes_no_checkpoint_away(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path
) -> None:
    places, rows = _places(tmp_path), token_rows(tiny_decoder)
    fit(fresh(), sft(), rows, SETTINGS, key="long", seed=0, places=places)
    short = SETTINGS.model_copy(update={"epochs": 0.5})
    fit(fresh(), sft(), rows, short, key="short", seed=0, places=places)
    keys = {json.loads(path.read_text("utf-8"))["key"] for path in places.states.glob("step-*/state.json")}
    assert keys == {"short"}


class _Growing(Sft):
    """An objective whose loss grows with every forward pass."""

    factor = 1.0

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        self.factor *= 1.1
        return super().loss(decoder, bundles, batch, count / self.factor)


def test_an_exploding_loss_stops_with_a_sentence(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 1e-9, "validation": 0.0})
    places = _places(tmp_path)
    rows = token_rows(tiny_decoder)
    with pytest.raises(TrainingError, match="the loss explodes") as caught:
        fit(fresh(), _Growing(), rows, settings, key="k", seed=0, places=places)
    assert "lower tune.learning_rate" in str(caught.value)


class _Swinging(Sft):
    """An objective whose loss is small in the first steps, then large in all but every eighth one."""

    passes = 0

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        self.passes += 1
        factor = 5.0 if self.passes > 10 and self.passes % 8 else 0.1
        return super().loss(decoder, bundles, batch, count / factor)


def test_a_loss_that_swings_from_step_to_step_is_no_explosion(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 1e-9, "validation": 0.0})
    fit(fresh(), _Swinging(), token_rows(tiny_decoder), settings, key="k", seed=0, places=_places(tmp_path))
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert sum(losses[-8:]) > 4 * sum(losses[:8])


def test_not_a_number_stops_at_once(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    places = _places(tmp_path)
    settings = SETTINGS.model_copy(update={"validation": 0.0})
    rows = token_rows(tiny_decoder)
    with pytest.raises(TrainingError, match="step 1: the loss or its gradient is not a number"):
        fit(model, sft(), rows, settings, key="k", seed=0, places=places)


def test_no_rows_is_a_sentence(fresh: Callable[..., Any], tmp_path: Path) -> None:
    places = _places(tmp_path)
    with pytest.raises(TrainingError, match="no rows to train on"):
        fit(fresh(), sft(), [], SETTINGS, key="k", seed=0, places=places)


class _Full(Sft):
    """An objective for which memory runs out in forward passes of more than 100 tokens."""

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        if torch.is_grad_enabled() and decoder.model.training and batch.ids.numel() > 100:
            super().loss(decoder, bundles, batch, count).backward()  # type: ignore[no-untyped-call]
            raise torch.OutOfMemoryError("planted")
        return super().loss(decoder, bundles, batch, count)


def _decided(folder: Path, tokens: int) -> None:
    decided = Schedule(tokens, False, False, 0, 0.0, 1, 1)
    record(folder / "plan.json", "k", decided)


@pytest.mark.promise10
def test_memory_that_runs_out_is_a_sentence(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    _decided(tmp_path, 300)
    settings = SETTINGS.model_copy(update={"validation": 0.0, "batch_size": 12})
    with pytest.raises(TrainingError, match="memory ran out in a forward pass of up to 300 tokens") as caught:
        fit(fresh(), _Full(), token_rows(tiny_decoder), settings, key="k", seed=0, places=_places(tmp_path))
    assert "lower tune.micro_tokens" in str(caught.value)


@pytest.mark.promise9
def test_backing_off_gives_the_same_gradients(fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path) -> None:
    """The half-made gradients of the pass that failed do not count."""
    rows = token_rows(tiny_decoder)
    results = []
    for objective in (_Full(), sft()):
        out = tmp_path / type(objective).__name__
        out.mkdir()
        _decided(out, 300)
        settings = SETTINGS.model_copy(
            update={"validation": 0.0, "batch_size": 12, "epochs": 1, "on_out_of_memory": "back_off"}
        )
        model = fresh()
        fit(model, objective, rows, settings, key="k", seed=0, places=_places(out))
        results.append((json.loads((out / "plan.json").read_text("utf-8")), dict(model.named_parameters())))
    (small, ours), (large, expected) = results
    assert small["schedule"]["decided"]["micro_tokens"] == 75
    assert large["schedule"]["decided"]["micro_tokens"] == 300
    _alike(ours, expected)


def test_the_schedule_is_decided_once(tiny_decoder: Path, tmp_path: Path) -> None:
    train(tiny_decoder, tmp_path)
    first = (tmp_path / "plan.json").read_bytes()
    decided = json.loads(first)["schedule"]["decided"]
    bundles = token_rows(tiny_decoder)
    assert decided["micro_tokens"] == 2048
    assert not decided["compile"]  # it would not pay for a run of a second
    assert 0 < decided["tokens"] < 2 * computed(bundles) + 2 * sum(len(row.ids) for bundle in bundles for row in bundle)
    train(tiny_decoder, tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == first


def test_an_example_that_cannot_fit_is_refused_before_the_first_step(
    fresh: Callable[..., Any], tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda device: 10_000)
    with pytest.raises(TrainingError, match=r"an example of \d+ tokens will not fit into memory") as caught:
        fit(fresh(), sft(), token_rows(tiny_decoder), SETTINGS, key="k", seed=0, places=_places(tmp_path))
    assert "set tune.max_tokens to" in str(caught.value)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.promise9
def test_little_memory_turns_checkpoints_on_and_the_gradient_stays(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for free in (10**10, 900_000):
        monkeypatch.setattr(schedule, "free_memory", lambda device, free=free: free)
        out = tmp_path / str(free)
        out.mkdir()
        train(tiny_decoder, out, SETTINGS.model_copy(update={"epochs": 0.5}))
        decided = json.loads((out / "plan.json").read_text("utf-8"))["schedule"]["decided"]
        results.append((decided["checkpoint"], load_file(out / "last.safetensors")))
    (whole, expected), (checkpointed, again) = results
    assert (whole, checkpointed) == (False, True)
    _alike(again, expected)


def test_fewer_rows_than_a_batch_make_one_step(tiny_decoder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 500, "epochs": 1})
    assert train(tiny_decoder, tmp_path, settings).facts["steps"] == 1


@pytest.mark.promise4
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
    ids = torch.tensor([token_rows(tiny_decoder)[0][0].ids])
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
