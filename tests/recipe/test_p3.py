"""The recipe of P3 as it stands, and cut small on the tiny model with genuine templates."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bench.p3_rows import rendered
from shinan.core.dataset import read_dropped, read_manifest, read_rows
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from tests.formats.p3_rows import ROWS

RECIPE = Path(__file__).parents[2] / "recipes" / "p3.yaml"
SMALL = [
    "model=tiny:decoder",
    "chat=gemma",
    "tune.method=full",
    "tune.max_tokens=192",
    "tune.too_long=truncate",
    "tune.validate_every=1",
    "tune.validation=0.1",
]


@pytest.fixture
def p3() -> Path:
    """The folder of promptsource's templates and of what they once wrote, or a skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside)) / "p3"
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return folder


def test_it_loads_without_any_data() -> None:
    recipe = load_recipe(RECIPE)
    sources = recipe.build[0].params["sources"]
    assert len(sources) == 15
    assert all(source["rows"].startswith("hub:") for source in sources)
    held_out = {task.params["sources"][0]["templates"] for task in recipe.evaluate}
    assert not held_out & {source["templates"] for source in sources}


def test_the_command_for_full_size_is_one() -> None:
    (line,) = re.findall(r"#   shinan run p3\.yaml (--set .*)", RECIPE.read_text("utf-8"))
    recipe = load_recipe(RECIPE, re.findall(r"--set (\S+)", line))
    assert (recipe.build[0].params["limit"], recipe.build[0].params["templates_per_row"]) == (None, "all")


@pytest.mark.promise1
def test_it_runs_cut_small(p3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    published: dict[str, list[dict[str, Any]]] = {}
    for old in rendered(p3):
        if old.dataset != "imdb" and old.template in ("meaning", "Movie Expressed Sentiment", "equivalent"):
            published.setdefault(old.dataset, []).append(old.row)
    sources = [_source(p3, tmp_path, dataset, rows) for dataset, rows in published.items()]
    assert len(sources) == 3
    settings = [*SMALL, f"build.0.with.sources={json.dumps(sources)}", "build.0.with.limit=5"]
    for number, name in enumerate(("rte", "copa")):
        held_out = [_source(p3, tmp_path, f"super_glue/{name}", ROWS[f"super_glue/{name}"])]
        settings += [f"evaluate.{number}.with.sources={json.dumps(held_out)}", f"evaluate.{number}.max_new_tokens=4"]
        settings += [f"evaluate.{number}.with.limit=1"]
    folder = tmp_path / "runs" / "p3"
    run(load_recipe(RECIPE, settings), folder)
    stage = folder / "stages" / "build.p3"
    kept, dropped = read_rows(stage), read_dropped(stage)
    assert (len(kept) + len(dropped), {row.tags["dataset"] for row in kept}) == (15, set(published))
    manifest = read_manifest(stage)
    assert manifest is not None
    assert (manifest.tally["seen"], manifest.tally["kept"]) == (15, len(kept))
    assert len(read_rows(folder / "stages" / "items.rte")) == 10  # one row, ten templates
    compared = read_manifest(folder / "stages" / "compare")
    assert compared is not None
    assert {row["task"] for row in compared.facts["evaluation"]} == {"rte", "copa"}


def _source(p3: Path, folder: Path, dataset: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Genuine templates, and rows as a file."""
    path = folder / f"{dataset.replace('/', '-')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return {"templates": str(p3 / "templates" / dataset), "rows": str(path)}
