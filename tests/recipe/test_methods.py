"""The recipes whose rows models write, cut small, from the recipe to the report, with a tiny model for every part."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.core.dataset import read_dropped, read_manifest, read_rows
from shinan.recipe.run import run
from shinan.recipe.schema import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
TINY = "{model: tiny:decoder, chat: gemma}"  # a base model, asked in a format all the same
SMALL = ["model=tiny:decoder", "chat=gemma", "evaluate.0.with.limit=6", "evaluate.0.max_new_tokens=4", "tune.epochs=1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))


def small(name: str, *more: str) -> Recipe:
    return load_recipe(ROOT / f"recipes/{name}.yaml", [*SMALL, "build.0.with.limit=6", *more])


@pytest.mark.promise1
def test_evolution(tmp_path: Path) -> None:
    more = [f"build.1.with.teacher={TINY}", "build.1.with.max_new_tokens=16"]
    folder = run(small("evol", *more), tmp_path / "evol")
    tally = read_manifest(folder / "stages" / "build.evolved")
    assert tally is not None
    # A random model writes nothing that passes: two rounds of six, each dropped with a reason.
    assert tally.tally["seen"] == 12
    assert tally.tally["kept"] + sum(tally.tally["dropped"].values()) == 12
    assert len(read_rows(folder / "stages" / "curate")) == 6 + tally.tally["kept"]


@pytest.mark.promise1
def test_dialogue(tmp_path: Path) -> None:
    models = [f"build.1.with.{who}={TINY}" for who in ("teacher", "asker")]
    folder = run(small("dialogue", *models, "build.1.with.max_new_tokens=8"), tmp_path / "dialogue")
    talks = folder / "stages" / "build.talks"
    assert len(read_rows(talks)) + len(read_dropped(talks)) == 6


@pytest.mark.promise1
def test_back_translation(tmp_path: Path) -> None:
    backward = run(small("backtranslation-backward"), tmp_path / "backward")
    turned = read_rows(backward / "stages" / "build.turned")
    seeds = read_rows(backward / "stages" / "build.seeds")
    assert [(row.messages[0].text, row.reply) for row in turned] == [
        (seed.reply, seed.messages[0].text) for seed in seeds if len(seed.messages) == 2
    ]
    more = [
        "build.1.with.limit=4",
        "build.2.with.max_new_tokens=8",
        "build.3.with.max_new_tokens=8",
        f"build.2.with.teacher={backward / 'checkpoints' / 'best'}",
    ]
    folder = run(small("backtranslation", *more, f"build.3.with.teacher={TINY}"), tmp_path / "forward")
    pairs = folder / "stages" / "build.pairs"
    assert len(read_rows(pairs)) + len(read_dropped(pairs)) == 4
    trained = read_rows(folder / "stages" / "curate")
    assert {row.messages[0].role for row in trained} == {"system"}
    assert len(trained) >= 6
