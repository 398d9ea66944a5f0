"""Who watches a run is no part of what the run is; what it wrote on the way is found in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.core.errors import ConfigError
from shinan.recipe.plan import Setting, plan
from shinan.recipe.schema import load_recipe
from tests.recipe.tiny_recipe import write_recipe

SETTING = Setting("fingerprint", "gemma", "float32", "cpu")


def _key(recipe: Path, *overrides: str) -> str:
    stages = plan(load_recipe(recipe, list(overrides)), SETTING)
    return next(stage.key for stage in stages if stage.id == "tune")


def test_watching_does_not_enter_the_key(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    plain = _key(recipe)
    assert _key(recipe, "tune.track=[tensorboard, wandb]", "tune.sample={prompts: 2, every: 0.5}") == plain
    assert _key(recipe, "tune.patience=3") != plain


@pytest.mark.promise10
def test_a_mistyped_tracker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensorboard"):
        load_recipe(write_recipe(tmp_path), ["tune.track=[tensorbord]"])
