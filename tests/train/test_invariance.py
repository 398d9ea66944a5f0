"""A step's loss and gradients do not depend on how it is divided: into one forest or many, on one rank or two."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, computed
from shinan.train.dpo import dpo
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.sft import sft
from shinan.train.shards import divided, whole
from shinan.train.step import Summed, add_gradients
from tests.models.families import Gradients, assert_same, branching, make, nudge, padded_gradients, pairs

pytestmark = pytest.mark.promise9

ROOT = Path(__file__).parents[2]
FAMILIES = ("gemma3_text", "gpt2", "llama", "qwen2+window")
ON_RANKS = ("gemma3_text", "llama")  # tied and not
CAPACITIES = (40, 10_000)  # several forests; one, so that the second rank has none
Kind = Literal["sft", "dpo"]
KINDS: tuple[Kind, ...] = ("sft", "dpo")


def bundles_of(kind: Kind) -> list[Bundle]:
    """The rows of a step."""
    return pairs() if kind == "dpo" else [(row,) for row in branching()]


def step(
    family: str, kind: Kind, bundles: Sequence[Bundle], capacity: int, *, divide: bool = False
) -> tuple[Summed, Gradients]:
    """A step's gradients, some way into a run."""
    model = make(family)
    objective: Objective = dpo(beta=0.5) if kind == "dpo" else sft()
    with Decoder(model) as decoder:
        objective.prepare(decoder, bundles, 10_000)
    nudge(model)
    with divided(model, divide):
        masters = Masters(model)
        with Decoder(model, sinks=masters.sinks) as decoder:
            summed = add_gradients(decoder, objective, bundles, capacity, masters)
        grads = {name: weight.grad for name, weight in masters.weights.items() if weight.grad is not None}
        assert bool(masters.divided) == divide
        grads |= {name: whole(held.grad) for name, held in masters.divided.items() if held.grad is not None}
    return summed, grads


@functools.cache
def one_forest(family: str, kind: Kind) -> tuple[float, Gradients]:
    """The whole step in one forest on one rank."""
    summed, grads = step(family, kind, bundles_of(kind), 10_000)
    return summed.loss, grads


@pytest.mark.parametrize("family", FAMILIES)
def test_one_forest_is_the_padded_batch(family: str) -> None:
    model: Any = make(family)
    nudge(model)
    assert_same(one_forest(family, "sft"), padded_gradients(model, branching()))


@pytest.mark.parametrize("capacity", [1, 40])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_many_forests(family: str, kind: Kind, capacity: int) -> None:
    bundles = bundles_of(kind)
    summed, grads = step(family, kind, bundles, capacity)
    assert_same((summed.loss, grads), one_forest(family, kind))
    assert summed.computed > computed(bundles)  # what they share is computed in each


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_rows(kind: Kind) -> None:
    summed, grads = step("llama", kind, bundles_of(kind)[::-1], 40)
    assert_same((summed.loss, grads), one_forest("llama", kind))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two ranks holds after the same steps."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.train.test_invariance", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ON_RANKS)
def test_two_ranks(ranks: list[dict[str, Tensor]], family: str, kind: Kind, capacity: int, divide: bool) -> None:
    begin = f"{family}/{kind}/{capacity}/{divide}/"
    found = [{name.removeprefix(begin): held[name] for name in held if name.startswith(begin)} for held in ranks]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert_same((found[0].pop("loss").item(), found[0]), one_forest(family, kind))


def test_both_ranks_know_how_many_tokens_were_computed(ranks: list[dict[str, Tensor]]) -> None:
    for kind in KINDS:
        for capacity in CAPACITIES:
            alone = step("llama", kind, bundles_of(kind), capacity)[0].computed
            for divide in (False, True):
                case = f"computed/llama/{kind}/{capacity}/{divide}"
                assert [int(held[case]) for held in ranks] == [alone, alone]


def as_rank(folder: Path, rank: int) -> None:
    """Compute every step as one of two ranks, and keep what it holds afterwards."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    held: dict[str, Tensor] = {}
    for family, kind, capacity, divide in itertools.product(ON_RANKS, KINDS, CAPACITIES, (False, True)):
        summed, grads = step(family, kind, bundles_of(kind), capacity, divide=divide)
        case = f"{family}/{kind}/{capacity}/{divide}"
        held |= {f"{case}/{name}": grad for name, grad in grads.items()}
        held[f"{case}/loss"] = torch.tensor(summed.loss, dtype=torch.float64)
        held[f"computed/{case}"] = torch.tensor(summed.computed)
    save_file(held, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    as_rank(Path(sys.argv[1]), int(sys.argv[2]))
