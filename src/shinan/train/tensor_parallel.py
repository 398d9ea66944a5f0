"""Blocks whose matrices are cut between ranks as transformers' plans say (Shoeybi et al. 2019, arXiv 1909.08053).

The ranks of a group compute the same forests, each with its heads of attention and its part of the MLP; transformers'
layers add up what the parts give. Norms, embedding and head are whole on each rank, as is what goes between the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers.integrations.tensor_parallel import apply_tensor_parallelism, replace_layer_number_by_wildcard

from shinan.core.errors import Problem, TrainingError
from shinan.models.cache import Shape
from shinan.models.decoder import blocks
from shinan.train import ranks
from shinan.train.shards import Division, exchanged

TRIED = ("gemma3_text", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Families whose plan gives the loss and gradients of one process, as tests have found."""
# Of such norms, each rank's gradient is that of its own heads. transformers would sum what has been added up so far in
# each backward pass, and so count all but a step's last one several times: we sum once.
_PARTIAL = "replicated_with_grad_allreduce"


def problems(model: Any, width: int) -> Iterator[Problem]:
    """What of a causal LM speaks against cutting its blocks into `width` parts."""
    key, kind = "tune.tensor_parallel", model.config.model_type
    if kind not in TRIED:
        what = f"this is not tried with the family {kind}, but with {', '.join(TRIED)}"
        yield Problem(what, key, "leave it out, and set `shard: on`")
        return
    modules = dict(blocks(model)[0][0].named_modules())
    sizes = {"key-value heads": Shape.of(model).groups}
    for name, style in _styles(model).items():
        if style != _PARTIAL:
            sizes[name] = modules[name].out_features if style == "colwise" else modules[name].in_features
    for name, size in sizes.items():
        if size % width:
            yield Problem(
                f"{size} {name} cannot be cut into {width} equal parts", key, "choose a number that divides it"
            )
            return


@contextmanager
def cut(model: Any, width: int) -> Iterator[Division]:
    """Have each of `width` ranks side by side hold its part of the blocks for a block of code; then all hold all.

    Raises TrainingError if the ranks are not groups of `width`.
    """
    if ranks.count() % width:
        raise TrainingError(
            f"tune.tensor_parallel: {width} needs as many processes, or a multiple, and this run has {ranks.count()}",
            fix=f"start it by `torchrun --nproc-per-node {width} -m shinan run`, or leave tune.tensor_parallel out",
        )
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (ranks.count() // width, width), mesh_dim_names=("alike", "together"))
    styles = _styles(model)
    with exchanged(model, lambda block: _cut(block, mesh["together"], styles)):
        alike = mesh["alike"].get_group() if ranks.count() > width else None
        yield Division(width, alike, frozenset(_partial(model)))


def _cut(block: nn.Module, mesh: DeviceMesh, styles: dict[str, str]) -> nn.Module:
    modules = dict(block.named_modules())
    plan: dict[str, str] = {}
    for name, style in styles.items():
        if style != _PARTIAL:
            plan |= {f"{name}.{parameter}": style for parameter, _ in modules[name].named_parameters()}
            plan[name] = style
    apply_tensor_parallelism(block, mesh, plan)
    return block


def _styles(model: Any) -> dict[str, str]:
    """What the model's plan says of each block, by the names of modules in it."""
    return {name.partition(".*.")[2]: style for name, style in model.tp_plan.items() if ".*." in name}


def _partial(model: Any) -> Iterator[str]:
    for name, _ in model.named_parameters():
        if model.tp_plan.get(replace_layer_number_by_wildcard(name.rpartition(".")[0])) == _PARTIAL:
            yield name
