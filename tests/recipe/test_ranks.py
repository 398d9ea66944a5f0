"""`torchrun -m shinan run`: rank 0 does the stages, all tune, one speaks; the outcome is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.recipe.tiny_recipe import start, write_recipe

FP32 = ("--set", "tune.precision=fp32")


def start_two(recipe: Path, runs: Path, cache: Path, *more: str, on_one: str = "") -> subprocess.Popen[str]:
    """`shinan run` by two processes of torchrun; rank 1 gets the arguments `on_one` as well."""
    command = " ".join([sys.executable, "-m", "shinan", "run", str(recipe), "--runs", str(runs), *more])
    script = f'if [ "$RANK" = 1 ]; then exec {command} {on_one}; else exec {command}; fi'
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.Popen(
        [*torchrun, "--no-python", "sh", "-c", script],
        env=os.environ | {"SHINAN_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the recipe run by one process."""
    home = tmp_path_factory.mktemp("alone")
    process = start(write_recipe(home), home / "runs", home / "cache", *FP32)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return home / "runs" / "tiny"


@pytest.fixture(scope="module", params=["tune.shard=on", "tune.tensor_parallel=2"])
def folders(
    alone: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, Path, str]:
    """That folder, the folder of the same recipe run by two processes, and what these said."""
    home = tmp_path_factory.mktemp("ranks")
    two = start_two(write_recipe(home), home / "runs", home / "cache", *FP32, "--set", request.param)
    _, said = two.communicate(timeout=300)
    assert two.returncode == 0, said
    return alone, home / "runs" / "tiny", said


@pytest.mark.promise9
def test_two_processes_end_where_one_does(folders: tuple[Path, Path, str]) -> None:
    one, two, _ = folders
    ours, expected = (json.loads((folder / "summary.json").read_text("utf-8")) for folder in (two, one))
    assert [stage["id"] for stage in ours["stages"]] == [stage["id"] for stage in expected["stages"]]
    assert ours["training"]["final_loss"] == pytest.approx(expected["training"]["final_loss"], rel=1e-4)
    for name in ("examples", "tokens", "labelled_tokens", "steps"):
        assert ours["training"][name] == expected["training"][name]
    for row, other in zip(ours["evaluation"], expected["evaluation"], strict=True):
        assert row["before"] == other["before"]
        assert row["after"] == pytest.approx(other["after"], abs=0.02)
    weights, exact = (load_file(folder / "checkpoints" / "last" / "model.safetensors") for folder in (two, one))
    for name, weight in exact.items():
        assert float((weights[name] - weight).norm()) <= 1e-3 * float(weight.norm()), name


def test_one_of_them_speaks(folders: tuple[Path, Path, str]) -> None:
    _, two, said = folders
    assert said.count("tune: running") == 1
    assert sum(line.startswith("tuning: ") and " in " in line for line in said.splitlines()) == 1
    lines = (two / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines if "gradient_norm" in line] == list(range(1, 13))


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("other", "told"),
    [("learning_rate=2e-3", "tune.settings.learning_rate"), ("tensor_parallel=2", "division.tensor_parallel")],
)
def test_ranks_that_disagree_are_told_once(tmp_path: Path, other: str, told: str) -> None:
    recipe = write_recipe(tmp_path)
    process = start_two(recipe, tmp_path / "runs", tmp_path / "cache", on_one=f"--set tune.{other}")
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert said.count("error: ") == 1
    assert f"rank 1 would not do what rank 0 does: it has another {told}" in said
    assert not (tmp_path / "runs" / "tiny" / "metrics.jsonl").exists()


@pytest.mark.promise10
def test_a_recipe_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "name: tiny\n")
    process = start_two(recipe, tmp_path / "runs", tmp_path / "cache")
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert said.count("error: ") == 1
