"""Build stages that take rows from others: order, keys, what reaches training, and wrong wiring told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from shinan.core.dataset import Judged, new_folder, read_dropped, read_rows
from shinan.core.errors import ConfigError
from shinan.core.example import Example, assistant
from shinan.core.registry import _TABLE, lookup, register
from shinan.core.verdict import Verdict
from shinan.recipe.plan import Setting, plan
from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.stages import WORK, Room
from shinan.recipe.wiring import in_order
from tests.recipe.tiny_recipe import write_recipe

SETTING = Setting("fingerprint", "gemma", "float32", "cpu")
RECIPE = """\
name: wired
model: tiny:decoder
build:
  - id: louder
    use: tests.shout
    from: [seeds, more]
    with: {mark: "!"}
  - id: seeds
    use: collection
    with: {limit: 3}
    train: false
  - id: more
    use: collection
    with: {split: heldout, limit: 2}
    train: false
evaluate:
  - id: heldout
    use: collection
    with: {limit: 2}
"""


@register("build", "tests.shout")
def shout(seed: int, rows: Sequence[Example], *, mark: str = "?") -> Iterator[Judged]:
    """Every row with a louder reply; the first is dropped."""
    for place, row in enumerate(rows):
        louder = replace(row.at("shout", place), messages=(*row.prompt, assistant(f"{row.reply}{mark}")))
        yield louder if place else (louder, Verdict.drop("first"))


def recipe(folder: Path, text: str = RECIPE) -> Recipe:
    return load_recipe(write_recipe(folder, text))


def test_stages_run_after_those_that_they_take_rows_from(tmp_path: Path) -> None:
    stages = plan(recipe(tmp_path), SETTING)
    assert [stage.id for stage in stages][:4] == ["build.seeds", "build.more", "build.louder", "items.heldout"]
    louder, curate = stages[2], next(stage for stage in stages if stage.kind == "curate")
    assert louder.needs == ("build.seeds", "build.more")
    assert curate.needs == ("build.louder", "items.heldout")  # what only feeds others is not trained on


def test_a_key_depends_on_the_rows_taken_and_on_their_order(tmp_path: Path) -> None:
    def key(text: str) -> str:
        return next(stage.key for stage in plan(recipe(tmp_path, text), SETTING) if stage.id == "build.louder")

    keys = {
        key(RECIPE),
        key(RECIPE.replace("limit: 3", "limit: 4")),
        key(RECIPE.replace("[seeds, more]", "[more, seeds]")),
    }
    assert len(keys) == 3
    assert key(RECIPE.replace("train: false\nevaluate", "train: true\nevaluate")) == key(RECIPE)


@pytest.mark.parametrize(
    ("kind", "name", "stages"),
    [("scorer", "rouge_l", {"before", "after"}), ("objective", "sft", {"tune"})],
)
def test_keys_depend_on_the_versions_of_what_scores_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, stages: set[str]
) -> None:
    def keys() -> dict[str, str]:
        return {stage.id: stage.key for stage in plan(recipe(tmp_path), SETTING)}

    old = keys()
    component = lookup(kind, name)
    monkeypatch.setitem(_TABLE, (kind, name), replace(component, version=component.version + 1))
    changed = {id_.rpartition(".")[2] for id_, key in keys().items() if key != old[id_]}
    assert stages <= changed <= {*stages, "after", "compare"}


def test_a_stage_gets_the_kept_rows_of_its_sources_in_order(tmp_path: Path) -> None:
    room = Room(recipe(tmp_path), SETTING, tmp_path, tmp_path)
    for stage in plan(room.recipe, SETTING)[:3]:
        with new_folder(room.stage(stage.id)) as out:
            WORK[stage.kind](room, stage, out)
    seeds, more, louder = (read_rows(room.stage(f"build.{id_}")) for id_ in ("seeds", "more", "louder"))
    assert [row.reply for row in louder] == [f"{row.reply}!" for row in [*seeds, *more][1:]]
    assert [verdict.reason for _, verdict in read_dropped(room.stage("build.louder"))] == ["first"]


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[seeds, more]", "[seed, more]", "6: build.0.from.0: no build stage has the id 'seed'"),
        ("[seeds, more]", "[seed, more]", "do this: did you mean 'seeds'"),
        ("[seeds, more]", "[seeds, more, seeds]", "6: build.0.from.2: the rows of 'seeds' are taken twice"),
        ("[seeds, more]", "[seeds]", "15: build.2.train: nobody takes its rows, and they are not trained on"),
        ("from: [seeds, more]", "from: []", "4: build.0: tests.shout makes its rows from those of other stages"),
        ("limit: 3}", "limit: 3}\n    from: [more]", "11: build.1.from: collection takes no rows of other stages"),
        ('{mark: "!"}', '{mark: "!"}\n    train: false', "3: build: there is nothing to train on"),
        ("[seeds, more]", "[louder, seeds, more]", "3: build: build stages wait for each other's rows: louder"),
    ],
)
def test_wrong_wiring_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(tmp_path, RECIPE.replace(old, new, 1))
    assert told in str(error.value)


@pytest.mark.promise10
def test_an_evaluation_task_has_no_rows_to_take(tmp_path: Path) -> None:
    text = RECIPE.replace("    use: collection\n    with: {limit: 2}\n", "    use: tests.shout\n")
    with pytest.raises(ConfigError, match=r"evaluate.0: tests.shout makes its rows from those of build stages"):
        recipe(tmp_path, text)


def test_a_circle_of_two_stages(tmp_path: Path) -> None:
    text = RECIPE.replace("use: collection\n    with: {limit: 3}", "use: tests.shout\n    from: [louder]", 1)
    with pytest.raises(ConfigError, match="rows: louder, seeds"):
        recipe(tmp_path, text)


def test_order_is_that_of_the_recipe_where_nothing_waits(tmp_path: Path) -> None:
    stages = recipe(tmp_path).build
    assert [stage.id for stage in in_order(stages[1:])] == ["seeds", "more"]


def test_a_parameter_named_rows_is_no_input() -> None:
    """As `flan` has: the file that its rows stand in."""
    assert not lookup("build", "flan").takes_rows
    assert lookup("build", "self_instruct").takes_rows
