"""The recipes whose rows models write, taught by our own server behind a line on which everything breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shinan.core.dataset import new_folder, read_dropped, read_rows
from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.core.verdict import Verdict
from shinan.models.sources import resolve
from shinan.recipe.plan import plan
from shinan.recipe.run import decide
from shinan.recipe.run import run as run_recipe
from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.stages import WORK, Room
from shinan.serve.run import Server
from shinan.serve.served import load_served
from tests.models.endpoint import TRUNCATED, Fault, ScriptedEndpoint, Status
from tests.serve.serving import ask, served, serving

RECIPES = Path(__file__).parents[2] / "recipes"
BUSY = Status(429, retry_after=0.05)
FAULTS: list[Fault | None] = [BUSY, BUSY, BUSY, "reset", Status(500), None, TRUNCATED, "cut", None, "drip", BUSY, None]

SMALL = ["model=tiny:decoder", "chat=gemma", "evaluate.0.with.limit=2", "evaluate.0.max_new_tokens=2", "tune.epochs=1"]
# In bytes, as the tiny model has them, rows are longer than in the tokens that a recipe is made for.
SMALL += ["tune.max_tokens=2048"]
# For each recipe the models that it asks, and what makes its build small.
ASKING = {
    "evol": (["build.1.with.teacher"], ["build.0.with.limit=5", "build.1.with.max_new_tokens=16"]),
    "dialogue": (
        ["build.1.with.teacher", "build.1.with.asker"],
        ["build.0.with.limit=5", "build.1.with.max_new_tokens=16"],
    ),
    "backtranslation": (
        ["build.2.with.teacher", "build.3.with.teacher"],
        ["build.0.with.limit=5", "build.1.with.limit=9", *(f"build.{n}.with.max_new_tokens=16" for n in (2, 3))],
    ),
    "self-instruct": (["build.1.with.teacher"], ["build.1.with.instructions=2", "build.1.with.budget=8"]),
    "distil-alpaca": (
        ["build.1.with.teacher"],
        ["build.1.with.instructions=2", "build.1.with.budget=8"],
    ),
}

# Of these, two instructions' worth of calls may leave no row of a 135 M teacher's (LOG.md).
WEAK = ("self-instruct", "distil-alpaca")


@contextmanager
def bad_line(server: Server, *, restart_at: int) -> Iterator[ScriptedEndpoint]:
    """An endpoint that passes calls on to the server, breaks as scripted, and restarts when so many have come."""

    def forward(body: dict[str, Any]) -> str:
        chat = "messages" in body
        path = "/v1/chat/completions" if chat else "/v1/completions"
        reply = ask(server, path, body | {"model": server_name}, timeout=3000)
        assert reply.status == 200, reply.text
        choice = reply.json["choices"][0]
        return str(choice["message"]["content"] if chat else choice["text"])

    server_name = ask(server, "/v1/models").json["data"][0]["id"]
    with ScriptedEndpoint(forward, faults=FAULTS) as front:
        restarting = threading.Thread(target=restart, args=(front, restart_at), daemon=True)
        restarting.start()
        yield front
        assert not restarting.is_alive(), f"no restart: {len(front.calls)} calls came"


def restart(front: ScriptedEndpoint, calls: int) -> None:
    """Break all connections when so many calls have come; be away for half a second."""
    while len(front.calls) < calls:
        time.sleep(0.005)
    front.stop()
    time.sleep(0.5)
    front.start()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and so a ledger."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))


def taught(name: str, front: ScriptedEndpoint) -> Recipe:
    models, small = ASKING[name]
    teacher = f"{{model: '{front.ref}', licence: MIT, timeout: 3000}}"  # long replies, on a busy machine
    return load_recipe(RECIPES / f"{name}.yaml", [*SMALL, *(f"{model}={teacher}" for model in models), *small])


def built(recipe: Recipe, folder: Path) -> dict[str, tuple[list[Example], list[tuple[Example, Verdict]]]]:
    """The rows of every build stage, kept and dropped."""
    model = resolve(recipe.model)
    room = Room(recipe, decide(recipe, model, folder), folder, model)
    made = {}
    for stage in plan(recipe, room.setting):
        if stage.kind == "build":
            with new_folder(room.stage(stage.id)) as out:
                WORK[stage.kind](room, stage, out)
            made[stage.subject] = read_rows(room.stage(stage.id)), read_dropped(room.stage(stage.id))
    return made


def prove(recipe: Recipe, front: ScriptedEndpoint, folder: Path) -> int:
    """Nothing is lost and nothing is paid twice, whatever breaks; a second build asks nothing and is the same.

    Returns how many rows there are to train on.
    """
    first = built(recipe, folder / "first")
    reasons = {verdict.reason for _, dropped in first.values() for _, verdict in dropped}
    assert "failed" not in reasons
    assert max(front.answered.values()) == 1
    calls = len(front.calls)
    assert calls > len(FAULTS)
    assert built(recipe, folder / "second") == first
    assert len(front.calls) == calls
    return sum(len(first[stage.id][0]) for stage in recipe.build if stage.train)


@pytest.mark.promise2
@pytest.mark.parametrize("name", ["evol", "dialogue", "backtranslation"])
def test_a_build_comes_through_on_a_bad_line(name: str, cache: None, tmp_path: Path, tiny_decoder: Path) -> None:
    with serving(served(tiny_decoder, context=8192)) as server, bad_line(server, restart_at=16) as front:
        prove(taught(name, front), front, tmp_path)


@pytest.mark.slow
@pytest.mark.promise2
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ASKING)
def test_the_starter_teacher_comes_through_on_a_bad_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole recipe, with the real instruct model behind our server."""
    teacher = load_served(resolve("starter:smollm2-135m-instruct"))
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    with serving(teacher) as server, bad_line(server, restart_at=16) as front:
        recipe = taught(name, front)
        if prove(recipe, front, tmp_path) == 0 and name in WEAK:
            with pytest.raises(DataError, match="no row is left after curation"):
                run_recipe(recipe, tmp_path / "run")
            return
        folder = run_recipe(recipe, tmp_path / "run")
    assert read_rows(folder / "stages" / "tune")
