"""The measured dry run: it forecasts, refuses what will not fit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from shinan.core.errors import RunError, TrainingError
from shinan.recipe import dryrun
from shinan.recipe.check import Checked, check
from shinan.recipe.run import run
from shinan.recipe.schema import Recipe, load_recipe
from shinan.train import schedule

RECIPE = """\
name: dry
model: tiny:decoder
chat: gemma
build: [{id: mine, use: collection, with: {split: train, languages: [en], limit: 40}}]
tune: {method: full, epochs: 2, batch_size: 4, max_tokens: 900, too_long: truncate, validation: 0.1, precision: fp32}
evaluate:
  - {id: heldout, use: collection, with: {split: heldout, languages: [en], limit: 50}, max_new_tokens: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    path = tmp_path / "dry.yaml"
    path.write_text(RECIPE, "utf-8")
    return load_recipe(path)


def _measured(recipe: Recipe, folder: Path) -> Checked:
    return check(recipe, folder, measure=True)


def test_a_forecast_of_a_small_run(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "dry"
    forecast = _measured(recipe, folder).forecast
    assert forecast is not None
    assert forecast.seconds.keys() == {"before", "tune", "after"}
    assert all(seconds > 0 for seconds in forecast.seconds.values())
    assert forecast.seconds["before"] == 2 * forecast.seconds["after"]  # asked in two styles
    assert not folder.exists()
    run(recipe, folder)
    held = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    assert 0.2 * held < forecast.disk - 2 * dryrun._TOKENIZER + 1e6 < 20 * held


def test_the_rehearsal_does_not_change_the_run(recipe: Recipe, tmp_path: Path) -> None:
    for name, rehearsed in (("plain", False), ("rehearsed", True)):
        if rehearsed:
            _measured(recipe, tmp_path / name)
        run(recipe.model_copy(update={"name": name}), tmp_path / name)
    weights = [(tmp_path / name / "checkpoints/last/model.safetensors").read_bytes() for name in ("plain", "rehearsed")]
    assert weights[0] == weights[1]


class _Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.promise10
def test_a_disk_that_is_too_small_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Disk(10**9, 10**9, 10**6))
    with pytest.raises(RunError, match=r"the run needs 0\.1 GB of disk, and 0\.0 GB are free") as caught:
        _measured(recipe, tmp_path / "run")
    assert "shinan clean" in str(caught.value)


@pytest.mark.promise10
def test_memory_that_is_too_small_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda device: 400_000)
    with pytest.raises(TrainingError, match=r"an example of \d+ tokens will not fit into memory") as caught:
        _measured(recipe, tmp_path / "run")
    assert "set tune.max_tokens to" in str(caught.value)
    with pytest.raises(TrainingError, match="will not fit into memory"):
        run(recipe, tmp_path / "run")
