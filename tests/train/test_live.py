"""What a run shows: numbers to check by hand, trackers that are told each step once, weights that do not care."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from shinan.core.errors import RunError
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.train import engine, live
from shinan.train.settings import SampleSettings, TuneSettings
from tests.train.runs import SETTINGS, token_rows, train

SHORT = SETTINGS.model_copy(update={"epochs": 1.0})


def _with(settings: TuneSettings, **changes: Any) -> TuneSettings:
    return settings.model_copy(update=changes)


def _lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def _weights(folder: Path) -> dict[str, bytes]:
    return {name: weight.numpy().tobytes() for name, weight in load_file(folder / "last.safetensors").items()}


def _folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_share_of_the_peak(
    tiny_decoder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: two layers of [64 x 64] queries, two [32 x 64] keys and values, [64 x 64] outputs, three [128 x 64]."""
    monkeypatch.setattr(live, "matrix_rate", lambda dtype, device: 1e9)
    settings = TuneSettings.model_validate({"method": method, "epochs": 0.5, "batch_size": 4, "validation": 0.0})
    train(tiny_decoder, tmp_path, settings)
    blocks = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64)
    adapters = 2 * 16 * ((64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 128))
    head = 264 * 64
    block, last = (6 * blocks, 6 * head) if method == "full" else (4 * blocks + 6 * adapters, 4 * head)
    lines = _lines(tmp_path)
    assert lines
    for line in lines:
        flop = block * line["computed_tokens"] + last * line["labelled_tokens"]
        rounded = 0.0006 / line["seconds"]  # the line tells milliseconds
        speed = line["labelled_tokens"] / line["seconds"]
        assert line["labelled_tokens_per_second"] == pytest.approx(speed, rel=rounded, abs=0.06)
        assert line["flop_share"] == pytest.approx(flop / line["seconds"] / 1e9, rel=rounded, abs=1e-4)
        assert 50e6 < line["memory_bytes"] < 100e9


def test_the_terminal_line(tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_decoder, tmp_path, _with(SHORT, epochs=0.5))
    last = capsys.readouterr().err.splitlines()[-1]
    assert "tuning: " in last
    for word in ("loss ", " labelled/s, ", "% of peak, ", " GB"):
        assert word in last


@pytest.mark.promise3
def test_watching_changes_no_weight(tiny_decoder: Path, tmp_path: Path) -> None:
    plain, watched = _folder(tmp_path, "plain"), _folder(tmp_path, "watched")
    dropout = TuneSettings.model_validate(
        {"method": "lora", "lora": {"dropout": 0.3}, "epochs": 1, "batch_size": 4, "validation": 0.2}
    )
    train(tiny_decoder, plain, dropout)
    train(
        tiny_decoder,
        watched,
        _with(dropout, sample=SampleSettings(prompts=3, every=0.25), track=["tensorboard"]),
    )
    assert _weights(watched) == _weights(plain)
    losses = [[line.get("loss") for line in _lines(folder)] for folder in (plain, watched)]
    assert losses[0] == losses[1]


def test_sample_replies_are_the_models_own(tiny_decoder: Path, tmp_path: Path) -> None:
    train(tiny_decoder, tmp_path, _with(SHORT, sample=SampleSettings(prompts=2, every=0.5)))
    samples = _lines(tmp_path, "samples.jsonl")
    steps = sorted({sample["step"] for sample in samples})
    assert steps[0] == 0
    assert steps[-1] == max(line["step"] for line in _lines(tmp_path))
    assert len(samples) == 2 * len(steps)
    model: Any = load_model(tiny_decoder, torch.float32)
    model.load_state_dict(load_file(tmp_path / "last.safetensors"), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    for sample in samples[-2:]:
        asked = sample["prompt"].removeprefix("user\n").removesuffix("\nmodel\n")
        markup = f"<bos><start_of_turn>user\n{asked}<end_of_turn>\n<start_of_turn>model\n"
        ids = tokenizer(markup, add_special_tokens=False, return_tensors="pt").input_ids
        said = model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=[1, 5], pad_token_id=0)
        assert sample["reply"] == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
    rows = {sample["row"] for sample in samples}
    assert len(rows) == 2
    assert {sample["reply"] for sample in samples[:2]} != {sample["reply"] for sample in samples[-2:]}


class _Killed(BaseException):
    pass


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch, folder: Path, model: Path, settings: TuneSettings) -> None:
    """Train until a step has been done, logged and told, and before it is saved."""
    guard = engine._guard

    def fail(run: Any, loss: float) -> None:
        guard(run, loss)
        if run.scalars.step == step:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_guard", fail)
        with pytest.raises(_Killed):
            train(model, folder, settings)


@pytest.mark.promise3
def test_early_stop_and_its_resume(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _with(SETTINGS, epochs=8.0, learning_rate=0.02, patience=2, schedule="constant")
    whole, killed = _folder(tmp_path, "whole"), _folder(tmp_path, "killed")
    fitted = train(tiny_decoder, whole, settings)
    assert fitted.facts["steps"] < fitted.facts["planned_steps"]
    losses = [line["validation_loss"] for line in _lines(whole) if "validation_loss" in line]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2  # by the definition: two in a row without a lower one
    again = train(tiny_decoder, whole, settings)
    assert again.facts["steps"] == fitted.facts["steps"]
    _killed_at(fitted.facts["steps"] - 1, monkeypatch, killed, tiny_decoder, settings)
    assert train(tiny_decoder, killed, settings).facts["steps"] == fitted.facts["steps"]
    assert _weights(killed) == _weights(whole)


def test_patience_without_validation_is_refused() -> None:
    with pytest.raises(ValidationError, match="`patience:` counts validations"):
        TuneSettings(patience=2, validation=0.0)


@pytest.mark.promise3
def test_tensorboard_reads_every_step_once(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = _with(SHORT, track=["tensorboard"])
    _killed_at(3, monkeypatch, tmp_path, tiny_decoder, settings)
    train(tiny_decoder, tmp_path, settings)
    folder = next((tmp_path / "tensorboard").iterdir())
    assert len(list(folder.iterdir())) == 2  # one file of each attempt
    read = EventAccumulator(str(folder))
    read.Reload()
    steps = [line for line in _lines(tmp_path) if "loss" in line]
    losses = {event.step: event.value for event in read.Scalars("loss")}
    assert [event.step for event in read.Scalars("loss")] == [line["step"] for line in steps]
    assert losses == {line["step"]: pytest.approx(line["loss"], rel=1e-6) for line in steps}
    held = [line["validation_loss"] for line in _lines(tmp_path) if "validation_loss" in line]
    assert [event.value for event in read.Scalars("validation_loss")] == [pytest.approx(x, rel=1e-6) for x in held]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Fakes of trackio and wandb with the functions that their documents promise."""
    calls: list[tuple[str, Any]] = []

    def init(name: str) -> Any:
        def begin(**given: Any) -> Any:
            calls.append((f"{name}.init", given))
            return SimpleNamespace(log=log(name), finish=ends(name))

        return begin

    def log(name: str) -> Any:
        def note(values: Mapping[str, float], step: int | None = None) -> None:
            calls.append((f"{name}.log", (step if step is not None else values["step"], dict(values))))

        return note

    def ends(name: str) -> Any:
        return lambda: calls.append((f"{name}.finish", None))

    for name in ("trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init(name), log=log(name), finish=ends(name)))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


@pytest.mark.promise3
@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_other_trackers_are_told_each_step_once(
    tiny_decoder: Path, tmp_path: Path, name: str, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _with(SHORT, track=[name])
    _killed_at(3, monkeypatch, tmp_path, tiny_decoder, settings)
    train(tiny_decoder, tmp_path, settings)
    given = [value for call, value in told if call == f"{name}.init"]
    assert len(given) == 2  # two attempts
    assert given[0] == given[1]  # of one run
    assert given[0].get("mode", "offline") == "offline"
    steps = [step for call, (step, values) in ((c, v) for c, v in told if c == f"{name}.log") if "loss" in values]
    assert steps == [line["step"] for line in _lines(tmp_path) if "loss" in line]
    assert told[-1] == (f"{name}.finish", None)


@pytest.mark.promise10
def test_a_tracker_that_is_not_installed(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"wandb is not installed") as caught:
        train(tiny_decoder, tmp_path, _with(SHORT, track=["wandb"]))
    assert "pip install 'shinan[track]'" in str(caught.value)


def test_nothing_is_imported_unless_asked(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    train(tiny_decoder, tmp_path, _with(SHORT, epochs=0.3))
    assert not (tmp_path / "track.json").exists()


def test_a_sample_reply_ends_where_the_models_positions_do(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GPT-2 has them: a row may be as long as they are, and only its reply's place is left after its prompt."""
    longest = max(len(row.ids) for bundle in token_rows(tiny_decoder) for row in bundle)
    monkeypatch.setattr(Decoder, "_learned_positions", lambda self: longest)
    train(tiny_decoder, tmp_path, _with(SHORT, epochs=0.2, validation=0.0, sample=SampleSettings(prompts=24)))
    assert len(_lines(tmp_path, "samples.jsonl")) >= 24
