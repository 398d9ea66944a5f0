"""One tiny run, made once, and the command line in process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from shinan.cli.main import app

RECIPE = """\
name: mini
model: tiny:decoder
chat: gemma
build:
  - {id: mine, use: file, with: {path: DATA, maker: human, licence: CC0-1.0}}
curate: [{use: structure}, {use: exact_duplicates}]
tune: {method: lora, epochs: 1, batch_size: 4, learning_rate: 1e-3, max_tokens: 300}
evaluate:
  - id: heldout
    use: collection
    with: {split: heldout, languages: [en], limit: 4}
    metrics: [rouge_l, exact_match]
    max_new_tokens: 6
"""
ROWS = [
    *({"instruction": f"Write the number {n}.", "output": f"{n}"} for n in range(8)),
    {"instruction": "Write the number 3.", "output": "3"},  # a duplicate
    {"instruction": "Write a " + "very " * 80 + "small number.", "output": "0"},  # too long to tune on
]


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


Shinan = Callable[..., Done]


class Made(NamedTuple):
    """What the session's run left behind; nobody may write to it."""

    cache: Path
    runs: Path
    recipe: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from shinan.recipe.run import run
    from shinan.recipe.schema import load_recipe

    root = tmp_path_factory.mktemp("made")
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    recipe = root / "mini.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(data)), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHINAN_CACHE", str(root / "cache"))
        patch.setenv("SHINAN_OFFLINE", "1")
        run(load_recipe(recipe), root / "runs" / "mini")
    return Made(root / "cache", root / "runs", recipe)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with an empty cache, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHINAN_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def mine(place: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of the session's run in `runs/mini`, its recipe, and a copy of its cache."""
    shutil.copytree(made.runs, place / "runs")
    shutil.copytree(made.cache, place / "cache")
    shutil.copy(made.recipe, place / "mini.yaml")
    return place


@pytest.fixture
def shinan(place: Path) -> Shinan:
    """`shinan(*arguments, stdin=...)` in process."""
    runner = CliRunner()

    def call(*arguments: str | Path, stdin: str = "") -> Done:
        words: Sequence[str] = [str(argument) for argument in arguments]
        result = runner.invoke(app, words, input=stdin, prog_name="shinan")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return call
