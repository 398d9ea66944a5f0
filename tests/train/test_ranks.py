"""Several ranks under torchrun: the same training as one, exact resume, checkpoints for any number of ranks, deaths."""

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
from torch import Tensor

from shinan.core.errors import TrainingError
from shinan.train import ranks, schedule
from shinan.train.schedule import divides
from tests.disk import disk
from tests.train.runs import SETTINGS, metrics, several, train

ROOT = Path(__file__).parents[2]
CASES: dict[str, dict[str, Any]] = {
    "copies": {},
    "shards": {"shard": "on"},
    "checkpointed": {"shard": "on", "checkpoint": "on"},
    "small": {"shard": "on", "micro_tokens": 60},
    "lora": {"method": "lora"},
    "lora-shards": {"method": "lora", "shard": "on"},
    "bf16": {"precision": "bf16"},
    "bf16-shards": {"precision": "bf16", "shard": "on"},
    "adamw8bit": {"optimiser": "adamw8bit"},
    "text": {"text": 0.5, "micro_tokens": 60},
    "text-shards": {"text": 0.5, "shard": "on"},
    "watched": {"shard": "on", "sample": {"prompts": 2, "every": 1.0}},
}


def start(count: int, model: Path, out: Path, cases: dict[str, Any]) -> subprocess.Popen[str]:
    """Runs of `tests.train.runs` under torchrun; what they say is in `stderr`."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
    return subprocess.Popen(
        [*torchrun, "-m", "tests.train.runs", str(model), str(out), json.dumps(cases)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(count: int, model: Path, out: Path, cases: dict[str, Any]) -> Path:
    """A finished run's folder."""
    process = start(count, model, out, cases)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "last.safetensors")


def assert_close(ours: Path, expected: Path, away: float, norms: float | None = None) -> None:
    """The same losses, and weights `away` apart at most, relative to their norm; those of gradients `norms`."""
    for one, other in zip(metrics(ours), metrics(expected), strict=True):
        mine, theirs = (line.pop("gradient_norm", 0.0) for line in (one, other))
        assert mine == pytest.approx(theirs, rel=max(away if norms is None else norms, 2e-5)), one
        assert one == pytest.approx(other, rel=max(away, 2e-5)), one
    found = _weights(ours)
    for name, weight in _weights(expected).items():
        assert float((found[name] - weight).norm()) <= away * float(weight.norm()), name


@pytest.fixture(scope="module")
def two(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two ranks."""
    return ran(2, tiny_decoder, tmp_path_factory.mktemp("two"), CASES)


@pytest.fixture(scope="module")
def one(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on one rank."""
    folder = tmp_path_factory.mktemp("one")
    several(tiny_decoder, folder, CASES)
    return folder


@pytest.mark.promise9
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one(one: Path, two: Path, case: str) -> None:
    assert_close(two / case, one / case, 0.02 if "bf16" in case else 1e-3)


@pytest.mark.promise4
@pytest.mark.parametrize("case", ["bf16", "bf16-shards", "lora-shards"])
def test_weights_are_kept_as_they_were_computed_with(two: Path, case: str) -> None:
    """Each rank rounds its part of a block; what is saved is rounded whole."""
    computed = load_file(two / case / "computed.safetensors")
    for name, weight in _weights(two / case).items():
        assert torch.equal(weight, computed[name]), name


def test_sample_replies_are_written_once(one: Path, two: Path) -> None:
    """All ranks compute them where blocks are divided."""
    found, expected = ((folder / "watched" / "samples.jsonl").read_text("utf-8") for folder in (two, one))
    assert found.splitlines()[:2] == expected.splitlines()[:2]  # before the first step
    assert len(found.splitlines()) == len(expected.splitlines()) == 6


@pytest.mark.promise9
def test_shards_are_shards(two: Path) -> None:
    """Of each block's tensors, each rank has written its own part; of others, one rank has written all."""
    (path,) = (two / "shards" / "states").glob("step-10")
    files = sorted(path.glob("*.safetensors"))
    assert len(files) == 2
    held = [load_file(file) for file in files]
    name = "model.layers.0.mlp.up_proj.weight"
    for part in ("weight", "exp_avg", "exp_avg_sq"):
        assert [len(tensors[f"{name}|{part}"]) for tensors in held] == [64, 64]  # of 128 rows
        assert sum(f"model.embed_tokens.weight|{part}" in tensors for tensors in held) == 1


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("changes", "told"), [({"optimiser": "adamw8bit"}, "adamw8bit"), ({"compile": "on"}, r"tune\.compile: on")]
)
def test_what_cannot_be_divided_is_refused(
    fresh: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 2)
    settings = SETTINGS.model_copy(update=changes | {"shard": "on"})
    with pytest.raises(TrainingError, match=rf"tune\.shard: on cannot divide .*{told}"):
        divides(fresh(), settings, tmp_path / "plan.json", "k")


def test_auto_divides_where_copies_would_not_fit_and_keeps_to_it(
    fresh: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, model = tmp_path / "plan.json", fresh()
    copy = 12 * sum(weight.numel() for weight in model.parameters())
    monkeypatch.setattr(ranks, "said_by", lambda source, value: value)
    monkeypatch.setattr(ranks, "most", lambda *numbers: list(numbers))
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(schedule, "free_memory", lambda device: 2 * copy)
    assert not divides(model, SETTINGS, plan, "roomy")
    monkeypatch.setattr(schedule, "free_memory", lambda device: copy)
    assert divides(model, SETTINGS, plan, "narrow")
    assert not divides(model, SETTINGS.model_copy(update={"optimiser": "adafactor"}), plan, "another")
    assert divides(model, SETTINGS, plan, "narrow")
    monkeypatch.setattr(schedule, "free_memory", lambda device: 9 * copy)
    assert not divides(model, SETTINGS, plan, "new")
    monkeypatch.setattr(ranks, "count", lambda: 1)
    assert not divides(model, SETTINGS.model_copy(update={"shard": "on"}), plan, "alone")


@pytest.mark.promise3
@pytest.mark.promise9
def test_a_run_goes_on_with_any_number_of_ranks(tiny_decoder: Path, tmp_path: Path) -> None:
    constant = {"schedule": "constant", "warmup": 0.0}
    shards = {"copies": constant, "shards": constant | {"shard": "on"}}

    def until(epochs: float) -> dict[str, Any]:
        return {name: changes | {"epochs": epochs} for name, changes in shards.items()}

    several(tiny_decoder, tmp_path, until(0.5))
    ran(2, tiny_decoder, tmp_path, until(1.0))
    process = start(3, tiny_decoder, tmp_path, until(1.5))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0
    assert said.count("was written with ranks 2, now 3: the run goes on from it") == 2
    several(tiny_decoder, tmp_path, until(2.0))
    train(tiny_decoder, tmp_path / "whole", SETTINGS.model_copy(update=constant))
    for name in shards:
        _close_weights(tmp_path / name, tmp_path / "whole", 1e-3)


def _close_weights(ours: Path, expected: Path, away: float) -> None:
    found = _weights(ours)
    for name, weight in _weights(expected).items():
        assert float((found[name] - weight).norm()) <= away * float(weight.norm()), name


def _children(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of the ranks that torchrun has started, by rank."""
    found: dict[int, int] = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(line[5:]): int(pid) for line in environment if line.startswith(b"RANK=")}
    return found


def _wait_for_lines(process: subprocess.Popen[str], path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError("it has ended too early, or hangs")


@pytest.mark.promise10
def test_a_full_disk_is_told_once_and_leaves_the_last_checkpoint(tiny_decoder: Path, tmp_path: Path) -> None:
    small = {"shards": {"shard": "on", "validation": 0.0}}
    with disk(tmp_path / "disk", "size=2m") as change:  # a checkpoint takes 1.1 MB
        process = start(2, tiny_decoder, tmp_path / "disk", small)
        _, said = process.communicate(timeout=300)
        assert process.returncode != 0
        assert said.count("RunError: ") == 1
        assert "cannot write: No space left on device" in said
        states = tmp_path / "disk" / "shards" / "states"
        assert not list(states.glob(".*"))
        kept = {path.name for path in states.iterdir() if (path / "state.json").exists()}
        assert kept
        change("size=50m")
        ran(2, tiny_decoder, tmp_path / "disk", small)


@pytest.mark.promise3
@pytest.mark.promise10
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_deaths_and_signals_cost_nothing(tiny_decoder: Path, tmp_path: Path) -> None:
    """A rank that dies ends the other; SIGTERM saves on all; the same number of ranks ends at the same bits."""
    cases = {"shards": CASES["shards"] | {"epochs": 2}}
    lines = tmp_path / "shards" / "metrics.jsonl"
    (tmp_path / "whole").mkdir()

    process = start(2, tiny_decoder, tmp_path, cases)
    _wait_for_lines(process, lines, 4)
    os.kill(_children(process)[1], signal.SIGKILL)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 20
    assert said.count("another process of this run has died") <= 1

    process = start(2, tiny_decoder, tmp_path, cases)
    _wait_for_lines(process, lines, 8)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    done = max(line["step"] for line in metrics(tmp_path / "shards") if "loss" in line)
    assert (tmp_path / "shards" / "states" / f"step-{done}" / "state.json").exists()

    ran(2, tiny_decoder, tmp_path, cases)
    whole = ran(2, tiny_decoder, tmp_path / "whole", cases) / "shards"
    assert (tmp_path / "shards" / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert metrics(tmp_path / "shards") == metrics(whole)
