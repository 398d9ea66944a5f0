"""docs/methods.md says which methods train which models, alone and on two ranks: here each cell is tried."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from shinan.core.errors import ConfigError
from shinan.models.checkpoint import load_model
from shinan.train.methods import wrap
from tests.train.runs import STEADY, metrics, several, with_biases
from tests.train.test_ranks import assert_close, ran

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
COLUMNS = ("decoder, one rank", "decoder, two ranks", "seq2seq, one rank", "seq2seq, two ranks")


def cells() -> dict[str, dict[str, str]]:
    """{method: {column: what the table says}}."""
    lines = DOCS.read_text("utf-8").split("## Where they run")[1].split("##")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {name.strip("`"): dict(zip(COLUMNS, said, strict=True)) for name, *said in rows}


TABLE = cells()
TRAINED = {
    kind: [name for name in TABLE if TABLE[name][f"{kind}, one rank"] == "yes"] for kind in ("decoder", "seq2seq")
}


@pytest.fixture(scope="module")
def models(tiny_seq2seq: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama with biases, and a T5 without dropout, which two ranks would draw differently."""
    home = tmp_path_factory.mktemp("models")
    copy = Path(shutil.copytree(tiny_seq2seq, home / "seq2seq"))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.0}), "utf-8")
    (copy / "shinan.json").unlink(missing_ok=True)
    return {"decoder": with_biases(home / "decoder"), "seq2seq": copy}


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The runs of a column, by method."""
    made: dict[str, Path] = {}

    def column(name: str) -> Path:
        if name not in made:
            kind = name.split(",")[0]
            home = tmp_path_factory.mktemp("runs")
            start: Any = partial(ran, 2) if "two" in name else several
            cases = {method: {"steady": method} for method in TRAINED[kind]}
            if "two" in name:
                cases |= {
                    f"{method}-divided": {"steady": method, "shard": "on"} for method in cases if method != "qlora"
                }
            start(models[kind], home, cases)
            made[name] = home
        return made[name]

    return column


def test_the_table_names_every_method() -> None:
    assert TABLE.keys() == STEADY.keys()
    assert all(set(said.values()) <= {"yes", "refused"} for said in TABLE.values())


@pytest.mark.promise9
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("kind", ["decoder", "seq2seq"])
def test_each_cell(kind: str, name: str, models: dict[str, Path], runs: Callable[[str], Path]) -> None:
    one, two = (f"{kind}, {count} rank{'s' * (count == 'two')}" for count in ("one", "two"))
    if TABLE[name][one] == "refused":
        assert TABLE[name][two] == "refused"
        with pytest.raises(ConfigError, match="do this: "):
            wrap(load_model(models[kind], torch.float32), STEADY[name], 0)
        return
    assert TABLE[name][two] == "yes"
    held = [line["validation_loss"] for line in metrics(runs(one) / name) if "validation_loss" in line]
    assert held[-1] < held[0]
    assert_close(runs(two) / name, runs(one) / name, 0.05 if name == "qlora" else 5e-3)
    if name != "qlora":
        assert_close(runs(two) / f"{name}-divided", runs(one) / name, 5e-3, norms=1e-2)
