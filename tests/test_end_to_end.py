"""The main job on the real model, cut small: a run from nothing, found cached, and a chat with what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CUT = {
    "build.0.with.limit": "10",
    "tune.epochs": "1",
    "tune.batch_size": "5",
    "evaluate.0.with.limit": "6",
    "evaluate.0.max_new_tokens": "12",
}


def _shinan(*words: str, runs: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shinan", *words], cwd=runs, input=stdin, capture_output=True, text=True, check=False,
        env=os.environ,
    )  # fmt: skip


@pytest.mark.end_to_end
@pytest.mark.timeout(1200)
def test_the_quickstart_on_the_real_model(tmp_path: Path) -> None:
    command = ["run", str(ROOT / "recipes" / "quickstart.yaml")]
    for key, value in CUT.items():
        command += ["--set", f"{key}={value}"]
    first = _shinan(*command, runs=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "quickstart"
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["evaluation"][0]["n"] == 6
    assert summary["training"]["steps"] == 2
    assert "report.html" in first.stdout
    assert (folder / "checkpoints" / "best" / "notices").is_dir()  # the licence travels with the weights

    start = time.monotonic()
    second = _shinan(*command, runs=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "running" not in second.stderr
    assert second.stderr.count("done in this run") == 8
    assert time.monotonic() - start < 120

    chat = _shinan("chat", str(folder), "--max-new-tokens", "8", runs=tmp_path, stdin="Name a colour.\n")
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()
