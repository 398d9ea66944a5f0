"""A run killed ten times at random steps ends at the same bits as one that was not; `python -m` does the killing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shinan.train.settings import LoraSettings, TuneSettings
from tests.train import runs
from tests.train.runs import SETTINGS, metrics, train

ROOT = Path(__file__).parents[2]
KILLS = 10
METHODS: dict[str, dict[str, Any]] = {
    "full": {"epochs": 8},
    "lora": {"epochs": 8, "method": "lora", "lora": LoraSettings(rank=4, dropout=0.1)},
    "adamw8bit": {"epochs": 8, "optimiser": "adamw8bit"},
}

MORE = ("dora", "qlora", "ia3", "prefix", "prompt")


def settings(method: str) -> TuneSettings:
    """Of a run of 40 steps, with a checkpoint after each."""
    if method in METHODS:
        return SETTINGS.model_copy(update=METHODS[method])
    return runs.METHODS[method].model_copy(update={"epochs": 8})


def _fork(method: str, model: Path, out: Path) -> int:
    """A run in a process of its own, which need not import torch again."""
    if child := os.fork():
        return child
    try:
        train(model, out, settings(method))
    finally:
        os._exit(0 if (out / "last.safetensors").exists() else 1)


def _steps(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b'"gradient_norm"') if path.exists() else 0


def _kill(method: str, model: Path, out: Path, draw: random.Random) -> bool:
    """Start, or go on with, a run, and kill it up to four steps later; whether it was killed before its end."""
    child = _fork(method, model, out)
    until = _steps(out) + draw.randrange(4)
    while _steps(out) < until and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(draw.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(method: str, model: Path, home: Path) -> None:
    """Run a method to its end at once, and beside it with kills; say how many there were, at which steps."""
    draw = random.Random(method)
    os.waitpid(_fork(method, model, home / "whole"), 0)
    at = [_steps(home / "killed") for _ in range(KILLS) if _kill(method, model, home / "killed", draw)]
    os.waitpid(_fork(method, model, home / "killed"), 0)
    print(json.dumps(at))


@pytest.mark.promise3
@pytest.mark.parametrize("method", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_ten_kills_leave_no_trace(tiny_decoder: Path, tmp_path: Path, method: str) -> None:
    command = [sys.executable, "-m", "tests.train.test_kills", method, str(tiny_decoder), str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert len(killed) == KILLS
    assert len(set(killed)) >= KILLS // 2  # those that come before the next step are of the same one
    whole, other = tmp_path / "whole", tmp_path / "killed"
    assert (other / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert metrics(other) == metrics(whole)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
