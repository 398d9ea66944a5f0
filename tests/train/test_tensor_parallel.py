"""Ranks that compute a forest together, each with its part of the matrices, train as one process does."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shinan.core.errors import ConfigError, TrainingError
from shinan.models.decoder import Decoder, blocks
from shinan.train import methods
from shinan.train.dpo import dpo
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.settings import FreezeSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.shards import like, whole
from shinan.train.step import add_gradients
from shinan.train.tensor_parallel import TRIED, cut
from tests.models.families import assert_same, make, nudge
from tests.train.runs import SETTINGS, metrics, several, train
from tests.train.test_invariance import CAPACITIES, ROOT, Kind, bundles_of, one_forest
from tests.train.test_ranks import _close_weights, _wait_for_lines, _weights, assert_close, ran, start

CUT = SETTINGS.model_copy(update={"tensor_parallel": 2})
Case = tuple[str, Kind, int]
_BOTH = ("gemma3_text", "llama")  # a tied head, and one that is not
# On two ranks, every family; on four, two groups, which divide the forests.
CASES: dict[int, list[Case]] = {
    2: [(family, "sft", capacity) for family in TRIED for capacity in CAPACITIES]
    + [(family, "dpo", capacity) for family in _BOTH for capacity in CAPACITIES],
    4: [(family, "sft", capacity) for family in _BOTH for capacity in CAPACITIES],
}
FROZEN: Case = ("gemma3_text", "sft", CAPACITIES[0])
RUNS: dict[str, dict[str, Any]] = {
    "cut": {"tensor_parallel": 2},
    "checkpointed": {"tensor_parallel": 2, "checkpoint": "on", "micro_tokens": 60},
    "text": {"tensor_parallel": 2, "text": 0.5},
    "noisy": {"tensor_parallel": 2, "neftune": 5.0},  # as much as to say that ranks of a group draw alike
    "bf16": {"tensor_parallel": 2, "precision": "bf16"},
}


def step(case: Case, frozen: int = 0) -> dict[str, Tensor]:
    """A step's gradients some way into a run, whole, with its loss, tokens and norm; so many blocks are frozen."""
    family, kind, capacity = case
    model, bundles = make(family), bundles_of(kind)
    objective: Objective = dpo(beta=0.5) if kind == "dpo" else sft()
    with Decoder(model) as decoder:
        objective.prepare(decoder, bundles, 10_000)
    nudge(model)
    blocks(model)[0][:frozen].requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with cut(model, 2) as division:
        masters = Masters(model, division)
        with Decoder(model, sinks=masters.sinks) as decoder:
            summed = add_gradients(decoder, objective, bundles, capacity, masters)
        grads = {name: weight.grad for name, weight in masters.weights.items() if weight.grad is not None}
        for name, held in masters.divided.items():
            assert grads[name].untyped_storage().nbytes() == 4 * held.numel() // 2
            grads[name] = whole(like(grads[name], held))
        norm = masters.clip(math.inf)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    return grads | {
        "loss": torch.tensor(summed.loss, dtype=torch.float64),
        "computed": torch.tensor(summed.computed),
        "norm": torch.tensor(norm, dtype=torch.float64),
    }


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Tensor]]]:
    """What each of so many ranks holds after the same steps."""
    made: dict[int, list[dict[str, Tensor]]] = {}

    def by(count: int) -> list[dict[str, Tensor]]:
        if count not in made:
            folder = tmp_path_factory.mktemp("held")
            command = [sys.executable, "-m", "tests.train.test_tensor_parallel", str(folder), str(count)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running = [
                subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
                for rank in range(count)
            ]
            for process in running:
                _, said = process.communicate(timeout=300)
                assert process.returncode == 0, said
            made[count] = [load_file(folder / f"{rank}.safetensors") for rank in range(count)]
        return made[count]

    return by


@pytest.mark.promise9
@pytest.mark.parametrize(("count", "case"), [(count, case) for count in CASES for case in CASES[count]])
def test_ranks_of_a_group_compute_as_one(
    held: Callable[[int], list[dict[str, Tensor]]], count: int, case: Case
) -> None:
    assert_exact(held(count), f"{case}/", case, one_forest(case[0], case[1])[1])


@pytest.mark.promise9
def test_frozen_blocks_are_cut_too(held: Callable[[int], list[dict[str, Tensor]]]) -> None:
    exact = one_forest(*FROZEN[:2])[1]
    trained = {name: grad for name, grad in exact.items() if not name.startswith("model.layers.0.")}
    assert_exact(held(2), "frozen/", FROZEN, trained)


def assert_exact(ranks: list[dict[str, Tensor]], begin: str, case: Case, exact: dict[str, Tensor]) -> None:
    """Loss, tokens, norm and gradients as in one process, the same bits on each rank."""
    found, *others = (
        {name.removeprefix(begin): rank[name] for name in rank if name.startswith(begin)} for rank in ranks
    )
    for other in others:
        assert all(torch.equal(found[name], other[name]) for name in found)
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in exact.values()))
    assert float(found.pop("norm")) == pytest.approx(norm, rel=1e-5)
    tokens = int(found.pop("computed"))
    assert tokens == sum(tokens_of(case))
    assert_same((float(found.pop("loss")), found), (one_forest(case[0], case[1])[0], exact))


def tokens_of(case: Case) -> list[int]:
    """The tokens of each forest of a step."""
    bundles = bundles_of(case[1])
    decoder = Decoder(make(case[0]))
    return [decoder.computed([bundles[index] for index in inside]) for inside in decoder.pack(bundles, case[2])]


@pytest.fixture(scope="module")
def two(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on a group of two ranks."""
    return ran(2, tiny_decoder, tmp_path_factory.mktemp("two"), RUNS)


@pytest.fixture(scope="module")
def one(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on one rank."""
    folder = tmp_path_factory.mktemp("one")
    several(tiny_decoder, folder, {name: changes | {"tensor_parallel": 1} for name, changes in RUNS.items()})
    return folder


@pytest.mark.promise9
@pytest.mark.parametrize("case", [name for name in RUNS if name != "bf16"])
def test_a_group_trains_as_one(one: Path, two: Path, case: str) -> None:
    assert_close(two / case, one / case, 1e-3)


@pytest.mark.promise9
def test_in_bf16_a_group_is_as_near_to_fp32_as_one_rank(one: Path, two: Path) -> None:
    """Parts are rounded before they are added, so that other bits are lost, and no more of them."""
    for ours, expected in zip(metrics(two / "bf16"), metrics(one / "bf16"), strict=True):
        assert ours == pytest.approx(expected, rel=0.02)
    exact = _weights(one / "cut")

    def away(folder: Path) -> float:
        found = _weights(folder / "bf16")
        return max(float((found[name] - weight).norm() / weight.norm()) for name, weight in exact.items())

    assert away(two) < 1.5 * away(one)


def test_each_rank_writes_its_part(two: Path) -> None:
    (path,) = (two / "cut" / "states").glob("step-10")
    parts = [load_file(file) for file in sorted(path.glob("*.safetensors"))]
    for name, shape in (("mlp.up_proj", (64, 64)), ("mlp.down_proj", (64, 64)), ("self_attn.k_proj", (16, 64))):
        for part in ("weight", "exp_avg", "exp_avg_sq"):
            assert [tensors[f"model.layers.0.{name}.weight|{part}"].shape for tensors in parts] == [shape] * 2
    assert sum("model.layers.0.self_attn.q_norm.weight|weight" in tensors for tensors in parts) == 1


@pytest.mark.promise3
@pytest.mark.promise9
def test_a_run_goes_on_in_groups_and_without(tiny_decoder: Path, tmp_path: Path) -> None:
    """One rank, two as a group, two with shards, two groups of two, one."""
    constant = {"schedule": "constant", "warmup": 0.0, "validation": 0.0, "epochs": 2.5}
    ways: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (2, {"tensor_parallel": 2}),
        (2, {"shard": "on"}),
        (4, {"tensor_parallel": 2}),
        (1, {}),
    ]
    for number, (count, way) in enumerate(ways, 1):
        case = {"run": constant | way | {"epochs": number / 2}}
        if count == 1:
            several(tiny_decoder, tmp_path, case)
            continue
        _, said = (process := start(count, tiny_decoder, tmp_path, case)).communicate(timeout=300)
        assert process.returncode == 0, said
        if "shard" in way:
            assert "was written with tensor_parallel 2, now 1: the run goes on from it" in said
    train(tiny_decoder, tmp_path / "whole", SETTINGS.model_copy(update=constant))
    _close_weights(tmp_path / "run", tmp_path / "whole", 1e-3)


@pytest.mark.promise3
def test_a_group_that_was_stopped_ends_at_the_same_bits(tiny_decoder: Path, tmp_path: Path, two: Path) -> None:
    case = {"cut": RUNS["cut"]}
    process = start(2, tiny_decoder, tmp_path, case)
    _wait_for_lines(process, tmp_path / "cut" / "metrics.jsonl", 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "cut" / "last.safetensors").exists()
    ran(2, tiny_decoder, tmp_path, case)
    assert (tmp_path / "cut" / "last.safetensors").read_bytes() == (two / "cut" / "last.safetensors").read_bytes()
    assert metrics(tmp_path / "cut") == metrics(two / "cut")


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "lora"}, "`method: lora`"),
        ({"optimiser": "adamw8bit"}, "`optimiser: adamw8bit`"),
        ({"optimiser": "lomo"}, "`optimiser: lomo`"),
        ({"compile": "on", "shard": "on"}, "`compile: on`, `shard: on`"),
        ({"sample": {}}, "`sample:`"),
    ],
)
def test_what_is_not_tried_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=f"not tried with {told}"):
        TuneSettings.model_validate({"method": "full", "tensor_parallel": 2} | changes)
    TuneSettings.model_validate({"method": "full", "tensor_parallel": 1} | changes)


@pytest.mark.promise10
def test_models_that_cannot_be_cut_are_refused() -> None:
    for family, width, told in (
        ("gpt2", 2, "this is not tried with the family gpt2"),
        ("llama", 4, "2 key-value heads cannot be cut into 4 equal parts"),
        ("llama+tied", 2, "1 key-value heads cannot be cut"),
    ):
        with pytest.raises(ConfigError, match=told):
            methods.check(make(family), CUT.model_copy(update={"tensor_parallel": width}))
    uneven = make("mistral", intermediate_size=45)
    with pytest.raises(ConfigError, match=r"45 mlp\.gate_proj cannot be cut into 2"):
        methods.check(uneven, CUT)
    methods.check(make("mistral"), CUT.model_copy(update={"freeze": FreezeSettings(layers=1)}))


@pytest.mark.promise10
def test_another_number_of_processes_is_refused(tiny_decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"tune\.tensor_parallel: 2 needs .* this run has 1"):
        train(tiny_decoder, tmp_path / "out", CUT)


def as_rank(folder: Path, count: int, rank: int) -> None:
    """Compute every step as one of so many ranks, and keep what it holds afterwards."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    steps = {str(case): step(case) for case in CASES[count]} | {"frozen": step(FROZEN, 1)}
    save_file(
        {f"{case}/{n}": t for case, found in steps.items() for n, t in found.items()}, folder / f"{rank}.safetensors"
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    as_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
