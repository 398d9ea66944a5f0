"""The race: what its two sides are given, and what is made of their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import race
from shinan.models.chat import chat_format
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.schema import import_rooms
from tests.formats.task_files import version_2, write

CLUSTERS = {"a": "t1", "b": "t1", "c": "t2"}
BASE = {"a": 0.0, "b": 0.1, "c": 0.2}


def run(seed: int, ours: list[float], peer: list[float]) -> dict[str, Any]:
    """A pair of runs whose items scored so."""
    numbers = {"steps": 4, "tokens": 100, "labelled_tokens": 10, "peak_gb": 2.0}
    config = {"loss": "chunked", "batching": "plain", "precision": "bf16-weights", "compile": False}
    more = {"config": config, "versions": {"trl": "1.16.0"}}
    return {
        "seed": seed,
        "ours": {"run": numbers, "scores": dict(zip(BASE, ours, strict=True))},
        "peer": {"run": numbers | {"tokens": 50} | more, "scores": dict(zip(BASE, peer, strict=True))},
    }


def test_gains_are_means_over_seeds_and_their_ratio_is_the_result() -> None:
    runs = [run(0, [0.4, 0.4, 0.4], [0.2, 0.2, 0.2]), run(1, [0.6, 0.6, 0.6], [0.4, 0.4, 0.4])]
    (gain, steps, tokens, *_), facts = race.result(BASE, CLUSTERS, runs, 10)
    assert (gain.workload, gain.metric, gain.target, gain.n) == ("race, 10 min", "rouge_l gain, points", 1.5, 2)
    assert (gain.ours, gain.peer, gain.ratio) == pytest.approx((40, 20, 2))
    assert (steps.ratio, tokens.ratio) == (1, 2)
    assert facts["by_seed"]["peer"][0]["delta"] == pytest.approx(0.1)
    assert facts["gains"]["ours"]["clusters"] == 2
    assert facts["ours_over_peer"]["delta"] == pytest.approx(0.2)
    assert race.words(facts).splitlines()[0].startswith("ours over base: +40.0 [")
    json.dumps(facts, allow_nan=False)


def test_a_gain_against_none_has_no_ratio() -> None:
    (gain, *_), _ = race.result(BASE, CLUSTERS, [run(0, [0.4, 0.4, 0.4], [0.0, 0.0, 0.0])], 1)
    assert gain.peer < 0
    assert gain.ratio is None


def test_both_sides_get_every_training_row_in_the_order_of_the_seed(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "super_natural_instructions"
    (files / "tasks").mkdir(parents=True)
    lines = ["task,category,source"]
    for number, category in enumerate(
        ["Coreference Resolution", "Question Rewriting", "Cause Effect Classification", "Other"]
    ):
        write(files / "tasks" / f"task{number}.json", version_2())
        lines.append(f"task{number},{category},source{number}")
    (files / "tasks.csv").write_text("\n".join(lines), "utf-8")
    monkeypatch.setenv("SHINAN_TEST_DATA", str(tmp_path))
    import_rooms()
    recipe = race.recipe_of(2).model_copy(update={"model": "tiny:decoder", "decontaminate": False})
    recipe.build[0].params.pop("tokenizer")
    recipe.build[0].params.pop("max_tokens")
    recipe.evaluate[0].params.pop("tokenizer")
    recipe.evaluate[0].params.pop("max_tokens")
    assert "instances_per_task" not in recipe.build[0].params | recipe.evaluate[0].params
    assert recipe.build[0].params["encoding"] == recipe.evaluate[0].params["encoding"] == "definition"
    chat = chat_format("alpaca", Tokenizer.load(tiny_decoder))
    first, same, other = (race.workload(recipe, chat, seed) for seed in (0, 0, 1))
    assert first == same
    assert first.batch_size == recipe.tune.batch_size
    assert len(first.rows) > 1
    assert sorted(map(str, first.rows)) == sorted(map(str, other.rows))
