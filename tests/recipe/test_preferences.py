"""A recipe of preference pairs, from the user's file to the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from shinan.core.dataset import read_manifest
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from shinan.report.html import write_report
from tests.recipe.tiny_recipe import RECIPE, write_recipe

BUILD = """\
build:
  - id: pairs
    use: file
    with: {path: PATH, shape: preference, licence: CC0-1.0, maker: human, task: capitals}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Sixteen pairs in a file, and the tiny recipe that tunes on them by DPO."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Say the number {n} in figures.", "chosen": f"{n}", "rejected": f"I would rather not say {n}."}
        for n in range(16)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    head, tail = RECIPE.split("build:\n")[0], RECIPE[RECIPE.index("curate:\n") :]
    text = head + BUILD.replace("PATH", str(pairs)) + tail.replace("tune:\n", "tune:\n  objective: dpo\n")
    return write_recipe(tmp_path, text)


def test_pairs_are_tuned_on_and_reported(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    folder = run(load_recipe(recipe), tmp_path / "runs" / "tiny")
    write_report(folder)
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    trained = [line["loss"] for line in losses if "loss" in line]
    # Before the first update the model is its own reference: every margin is 0, and the loss -log sigmoid(0).
    assert trained[0] == pytest.approx(math.log(2), abs=1e-3)
    assert trained[-1] < trained[0]
    tuned = read_manifest(folder / "stages" / "tune")
    assert tuned is not None
    assert tuned.use == "tune.dpo"
    assert tuned.tally == {"seen": 16, "kept": 16, "dropped": {}}
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["training"]["examples"] == 16 - round(0.1 * 16)
