"""recipes/natural-instructions.yaml, cut small and run on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shinan.core.dataset import read_dropped, read_manifest, read_rows
from shinan.models.chat import chat_format
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from tests.formats.task_files import published

RECIPE = Path(__file__).parents[2] / "recipes" / "natural-instructions.yaml"


@pytest.mark.promise1
@pytest.mark.promise8
def test_the_recipe_runs_and_holds_out_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    cut = {"model": "tiny:decoder", "tune.epochs": "1", "tune.max_tokens": "2048", "tune.validation": "0"}
    cut |= {
        "tune.compile": "off",
        "evaluate.0.max_new_tokens": "2",
        "build.0.with.limit": "6",
        "evaluate.0.with.limit": "6",
    }
    for section in ("build", "evaluate"):
        cut[f"{section}.0.with.path"] = str(published() / "tasks")
        cut[f"{section}.0.with.table"] = str(published() / "tasks.csv")
        cut[f"{section}.0.with.tokenizer"] = "tiny:decoder"
        cut[f"{section}.0.with.max_tokens"] = "700"  # bytes, as the tiny model counts
        cut[f"{section}.0.with.instances_per_task"] = "1"
    recipe = load_recipe(RECIPE, [f"{key}={value}" for key, value in cut.items()])
    folder = run(recipe, tmp_path / "run")

    rows, items = read_rows(folder / "stages/build.super-ni"), read_rows(folder / "stages/items.heldout")
    held = set(recipe.build[0].params["heldout_categories"])
    assert {item.tags["category"] for item in items} == held
    assert not {row.tags["category"] for row in rows} & held
    assert not {row.tags["dataset"] for row in rows} & {item.tags["dataset"] for item in items}
    reasons = {verdict.reason for _, verdict in read_dropped(folder / "stages/build.super-ni")}
    assert reasons == {"shares_heldout_source", "over_budget"}
    for stage in ("build.super-ni", "items.heldout", "curate", "tune"):
        manifest = read_manifest(folder / "stages" / stage)
        assert manifest is not None
        assert manifest.tally["seen"] == manifest.tally["kept"] + sum(manifest.tally["dropped"].values())

    # alpaca places the typed parts: the examples stand with the instruction, the input under a heading of its own.
    chat = chat_format("alpaca", Tokenizer.load(resolve("tiny:decoder")))
    shown = next(row for row in rows if row.tags["demonstrations"] == "2")
    prompt = chat.tokenizer.decode(chat.render(shown.messages).ids)
    assert f"\n\n### Input:\n{shown.messages[0].parts[-1].text}\n\n### Response:" in prompt
    assert prompt.count("\n\nInput: ") == 2
    (line, *_) = (folder / "eval/heldout.before.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["category"] in held


def test_the_part_for_full_size_is_a_recipe_too(tmp_path: Path) -> None:
    lines = RECIPE.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("# Full size"))
    full = [line.removeprefix("#   ") for line in lines[start:] if line.startswith("#   ")]
    path = tmp_path / "full.yaml"
    path.write_text("\n".join(["name: full", *full]), "utf-8")
    recipe = load_recipe(path)
    assert recipe.build[0].params["encoding"] == "tk_instruct"
    assert recipe.evaluate[0].params["split"] == "heldout"
