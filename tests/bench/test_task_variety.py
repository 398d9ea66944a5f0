"""The bench's own arithmetic: arms of equal make-up, and recipes that differ only in what is compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench import task_variety
from bench.pairs import RESULTS
from shinan.core.hashing import derive_seed
from tests.formats.task_files import version_2, write

TASKS = {f"t{n}": 2.0 + 10 * (derive_seed(0, "test", n) % 100 / 100) ** 3 for n in range(31)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_smaller_arms_are_parts_of_larger_ones_and_answer_at_the_same_length(seed: int) -> None:
    five, fifteen, every = (task_variety._chosen(TASKS, count, seed) for count in (5, 15, None))
    assert set(five) < set(fifteen) < set(every) == TASKS.keys()
    means = [sum(TASKS[name] for name in names) / len(names) for names in (five, fifteen, every)]
    assert max(means) / min(means) < 1.12


def test_arms_differ_in_their_rows_and_in_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    (tmp_path / "tasks").mkdir()
    for name in TASKS:
        write(tmp_path / "tasks" / f"{name}.json", version_2())
    options = argparse.Namespace(runs=tmp_path)
    recipes = {name: task_variety._recipe(name, 0, 50, options, TASKS) for name in task_variety.ARMS}
    assert len({recipe.name for recipe in recipes.values()}) == 5
    assert len({str((r.tune, r.evaluate, r.curate, r.decontaminate, r.chat)) for r in recipes.values()}) == 1
    assert len({str(recipe.build) for recipe in recipes.values()}) == 5
    assert recipes["all"].evaluate[0].params["split"] == "heldout"
    assert recipes["all-10-wordings"].build[0].params["wordings"] == 10
    assert recipes["all-definition"].build[0].params["encoding"] == "definition"
    assert len(recipes["15"].build[0].params["tasks"]) == 15


def test_the_table_says_what_was_run_and_what_came_out() -> None:
    found = json.loads((RESULTS / "task-variety.json").read_text("utf-8"))
    lines = task_variety._table(found).splitlines()
    assert len(lines) == len(found["arms"]) + len(found["comparisons"]) + 3
    labelled = [arm["labelled_tokens"] for arm in found["arms"]]
    assert max(labelled) <= found["what"]["labelled"] <= 1.02 * min(labelled)
    assert len(found["what"]["training_tasks"]) >= 30
