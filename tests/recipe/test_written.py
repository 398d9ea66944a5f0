"""The recipes in which a model writes the rows, cut small, against a scripted endpoint on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shinan.core.dataset import new_folder, read_dropped, read_rows
from shinan.core.example import Example
from shinan.models.sources import resolve
from shinan.recipe.plan import plan
from shinan.recipe.run import decide
from shinan.recipe.run import run as run_recipe
from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.stages import WORK, Room
from tests.models.endpoint import TRUNCATED, Fault, ScriptedEndpoint, Status

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = ["rope", "lamp", "tide", "oven", "mask", "wool", "gate", "drum", "seed", "kite", "boat", "clay"]


def reply(body: dict[str, Any]) -> str:
    """New tasks at every call, in the form that the prompt asks for, drawn by the request's seed."""
    asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    drawn = [WORDS[body["seed"] // 12**n % 12] for n in range(9)]
    if asked.endswith("Is it classification?"):
        return " No"
    if "List of 20 tasks" in asked:
        return f" Say what the {' '.join(drawn)} means.\n4. Input:\n<noinput>\n4. Output:\nIt means {drawn[0]}.\n###\n"
    if asked.endswith("\n9."):
        return f" Say what the {' '.join(drawn)} means.\n10. {' '.join(drawn[::-1])}"
    return f"Output: It means {drawn[0]}."


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedEndpoint]:
    """An endpoint that breaks in every way at first, and a cache of its own for the ledger."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    busy = Status(429, retry_after=0.05)
    faults: list[Fault | None] = [busy, busy, busy, busy, "reset", Status(500), None, TRUNCATED, "cut"]
    with ScriptedEndpoint(reply, faults=faults) as server:
        yield server


def cut(name: str, server: ScriptedEndpoint, *more: str) -> Recipe:
    """The recipe with the scripted teacher and the tiny model, and little to do."""
    raw = "true" if name == "self-instruct" else "false"
    small = [
        "model=tiny:decoder",
        "chat=gemma",
        f"build.1.with.teacher={{model: '{server.ref}', raw: {raw}, licence: MIT}}",
        "build.1.with.instructions=6",
        "tune.epochs=1",
        "evaluate.0.with.limit=2",
        "evaluate.0.max_new_tokens=2",
        *more,
    ]
    return load_recipe(RECIPES / f"{name}.yaml", small)


def written(recipe: Recipe, folder: Path) -> list[Example]:
    """The rows of the recipe's builds that are trained on."""
    model = resolve(recipe.model)
    room = Room(recipe, decide(recipe, model, folder), folder, model)
    for stage in plan(recipe, room.setting)[:2]:
        with new_folder(room.stage(stage.id)) as out:
            WORK[stage.kind](room, stage, out)
    return read_rows(room.stage("build.written"))


@pytest.mark.promise2
@pytest.mark.parametrize("name", ["self-instruct", "distil-alpaca"])
def test_rows_come_through_whatever_breaks_and_nothing_is_asked_twice(
    name: str, teacher: ScriptedEndpoint, tmp_path: Path
) -> None:
    recipe = cut(name, teacher)
    rows = written(recipe, tmp_path / "first")
    assert len(rows) >= 6
    assert {row.provenance.maker for row in rows} == {"model:scripted"}
    assert {row.provenance.licence for row in rows} == {"MIT"}
    assert all(row.tags["call"].startswith("b2:") and row.tags["prompt"] and row.provenance.parents for row in rows)
    seeds = {row.id for row in read_rows(tmp_path / "first" / "stages" / "build.seeds")}
    assert all(set(row.provenance.parents) <= seeds | {other.id for other in rows} for row in rows)
    assert "failed" not in {
        verdict.reason for _, verdict in read_dropped(tmp_path / "first" / "stages" / "build.written")
    }
    calls = len(teacher.calls)
    assert written(recipe, tmp_path / "second") == rows
    assert len(teacher.calls) == calls  # all of it stood in the ledger
    more = written(cut(name, teacher, "build.1.with.instructions=12"), tmp_path / "third")
    assert more[: len(rows)] == rows
    assert len(more) > len(rows)
    assert max(teacher.answered.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["self-instruct", "distil-alpaca"])
def test_a_model_is_tuned_on_what_the_teacher_wrote(name: str, teacher: ScriptedEndpoint, tmp_path: Path) -> None:
    folder = run_recipe(cut(name, teacher), tmp_path / "run")
    assert {row.provenance.maker for row in read_rows(folder / "stages" / "tune")} == {"model:scripted"}
